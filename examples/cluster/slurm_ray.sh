#!/bin/bash
# A run over several nodes: sbatch examples/cluster/slurm_ray.sh metaworld_mt10 --seed 1 --out runs/mt10_1
# The job is queued again when a node fails or its time is over; the same command then goes on where it was.
#SBATCH --job-name=alltrades
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail

port=6379
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=${nodes[0]}

# whoever reaches a Ray cluster without a token runs code on it
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$PWD/.ray_token_$SLURM_JOB_ID
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")
trap 'ray stop > /dev/null 2>&1 || true; rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

srun --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
until ray status --address "$head:$port" > /dev/null 2>&1; do sleep 2; done
if [ "${#nodes[@]}" -gt 1 ]; then
  workers=$(IFS=,; echo "${nodes[*]:1}")
  srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --nodelist="$workers" \
    ray start --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
fi

alltrades run "$@" --compute ray # nodes that come later are used when they are there
