"""The examples of examples/cluster: what they start, where, and with what."""

import json
import os
import re
import shlex
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from alltrades import cli

TOP = Path(__file__).parents[2]
FOLDER = TOP / "examples" / "cluster"
SAYS = '#!/bin/bash\necho "$(basename "$0") $*" >> "$LOG"\n'
STANDS_IN = {
    "scontrol": "printf 'node%d\\n' 1 2 3\n",
    "ray": SAYS + 'stat -c "token %a" "$RAY_AUTH_TOKEN_PATH" >> "$LOG"\n',
    "alltrades": SAYS,
    "torchrun": SAYS,
    "sbatch": 'exec bash "$@"\n',  # what the scheduler does, on the first node
}


def parsed(words: list[str]):
    return cli.parser().parse_args(cli.split_overrides(words)[0])


def submitted(script: str, words: str, tmp_path: Path, **more: str) -> list[str]:
    """What a script starts on three nodes, as lines."""
    folder, log = tmp_path / "bin", tmp_path / "log"
    folder.mkdir()
    for name, body in (STANDS_IN | more).items():
        file = folder / name
        file.write_text(body if body.startswith("#!") else f"#!/bin/bash\n{body}")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    (folder / "python").symlink_to(sys.executable)
    slurm = {
        "SLURM_JOB_NODELIST": "node[1-3]",
        "SLURM_JOB_ID": "17",
        "SLURM_NNODES": "3",
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_GPUS_ON_NODE": "4",
    }
    subprocess.run(
        ["sbatch", str(FOLDER / script), *words.split()],
        check=True,
        cwd=tmp_path,
        env={**os.environ, **slurm, "PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(log)},
        timeout=60,
    )
    return log.read_text().splitlines()


def test_the_slurm_script_of_ray_starts_a_node_each_and_the_run_on_the_first(tmp_path):
    found = submitted("slurm_ray.sh", "metaworld_mt10 --seed 1 --out runs/x", tmp_path, srun=SAYS)
    head, workers = (line for line in sorted(found) if line.startswith("srun"))
    assert "--nodelist=node1 ray start --head --port=6379 --num-cpus=16 --block" in head
    assert "--nodes=2 --ntasks=2 --nodelist=node2,node3" in workers
    assert workers.endswith("ray start --address=node1:6379 --num-cpus=16 --block")
    (run,) = (line for line in found if line.startswith("alltrades"))
    assert run == "alltrades run metaworld_mt10 --seed 1 --out runs/x --compute ray"
    assert parsed(run.split()[1:]).command == "run"
    assert "token 600" in found and not list(tmp_path.glob(".ray_token*"))


def test_the_slurm_script_of_torchrun_gives_every_node_its_number_and_the_same_run(tmp_path):
    node = SAYS + 'for i in 0 1 2; do SLURM_NODEID=$i "$@"; done\n'
    found = submitted("slurm_torchrun.sh", "planar_cameras --out runs/x", tmp_path, srun=node)
    started = [line for line in found if line.startswith("torchrun")]
    command = "-m alltrades run planar_cameras --out runs/x --device cuda"
    assert started == [
        f"torchrun --nnodes 3 --node-rank {i} --nproc-per-node 4 --master-addr node1 "
        f"--master-port 29500 {command}"
        for i in range(3)
    ]
    assert parsed(command.split()[2:]).command == "run"


@pytest.mark.parametrize("script", sorted(p.name for p in FOLDER.glob("*.sh")))
def test_slurm_scripts_are_right_for_the_shell_and_queued_again(script):
    subprocess.run(["bash", "-n", str(FOLDER / script)], check=True)
    asked = re.findall(r"^#SBATCH --([a-z-]+)", (FOLDER / script).read_text(), re.M)
    assert {"nodes", "ntasks-per-node", "cpus-per-task", "time", "requeue"} <= set(asked)


def test_the_kubernetes_job_has_one_image_a_token_everywhere_and_a_volume_for_its_run():
    job = yaml.safe_load((FOLDER / "kuberay.yaml").read_text())["spec"]
    words = shlex.split(job["entrypoint"])
    assert parsed(words[1:]).command == "run"
    cluster = job["rayClusterSpec"]
    pods = [g["template"]["spec"] for g in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]]
    containers = [container for pod in pods for container in pod["containers"]]
    assert len(containers) == 2 and len({c["image"] for c in containers}) == 1
    assert all(
        {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} == {e["name"] for e in c["env"]} for c in containers
    )
    (mount,) = containers[0]["volumeMounts"]
    assert words[words.index("--out") + 1].startswith(mount["mountPath"])
    assert mount["name"] in {v["name"] for v in pods[0]["volumes"]}


def test_the_cluster_of_own_machines_is_one_that_ray_takes():
    given = yaml.safe_load((FOLDER / "ray_cluster.yaml").read_text())
    assert given["provider"]["type"] == "local"
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert any("RAY_AUTH_MODE=token ray start" in c for c in given[commands])
    jsonschema = pytest.importorskip("jsonschema", reason='needs: pip install "alltrades[ray]"')
    ray = pytest.importorskip("ray", reason='needs: pip install "alltrades[ray]"')
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(given, schema)


# ---- the container -------------------------------------------------------------------------------
def instructions(name: str) -> list[str]:
    """The Dockerfile's, continued lines joined."""
    text = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")
    return [line[len(name) + 1 :] for line in text.splitlines() if line.startswith(name + " ")]


def test_the_container_takes_along_every_package_and_what_its_installation_reads():
    copied = {word for line in instructions("COPY") for word in line.split()[:-1]}
    assert all((TOP / name).exists() for name in copied)
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    rooms = {path.split("/")[0] for path in project["tool"]["setuptools"]["package-dir"].values()}
    assert rooms <= copied and {"pyproject.toml", "README.md", "requirements.lock"} <= copied


def test_the_container_has_the_torch_of_the_project_and_the_locked_versions_of_all_else():
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    (torch,) = (line for line in project["dependencies"] if line.startswith("torch"))
    installs = [line for line in instructions("RUN") if line.startswith("pip install")]
    assert (
        len(installs) == 3 and f'"{torch}"' in installs[0]
    )  # `.ci/run` is set up by the first two
    assert installs[1].endswith("--no-deps --require-hashes -r requirements.lock")
    assert installs[2].endswith("--no-deps .")
