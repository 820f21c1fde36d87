#!/bin/bash
# One training by the GPUs of several nodes: sbatch examples/cluster/slurm_torchrun.sh metaworld_cameras --out runs/cameras
#SBATCH --job-name=alltrades
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail

port=29500
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=${nodes[0]}
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / SLURM_GPUS_ON_NODE))

# the first process writes the run folder, which the first node must reach
srun bash -c 'torchrun --nnodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
  --master-addr "$0" --master-port "$1" -m alltrades run "${@:2}" --device cuda' "$head" "$port" "$@"
