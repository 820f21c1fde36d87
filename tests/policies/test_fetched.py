"""Policies from object stores, against a local S3 server that fails on demand."""

import json
import shutil

import pytest

from alltrades.errors import UserError
from alltrades.policies.artifact import facts_of
from alltrades.policies.fetched import fetched
from alltrades.policies.model.loading import load_policy
from alltrades.system.remote.cache import cache

from .toys import info, make_policy


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return make_policy([info("a"), info("b", 5, 1)]).save(tmp_path_factory.mktemp("x") / "policy")


@pytest.fixture
def url(s3, artifact, request):
    return s3.upload(artifact, f"{request.node.name}/policy")


def downloads(s3):
    return [p.rpartition("/")[2] for m, p in s3.proxy.asked if m == "GET" and "safetensors" in p]


def test_a_policy_at_an_address_is_the_one_on_a_disk(url, artifact):
    assert load_policy(url).digest() == load_policy(artifact).digest()
    assert facts_of(fetched(url)) == facts_of(artifact)
    assert fetched(url).name == "policy"
    assert fetched(artifact) == artifact


def test_a_policy_comes_once_and_again_when_it_was_changed(url, s3, tmp_path):
    s3.proxy.asked.clear()
    first = load_policy(url).digest()
    assert load_policy(url).digest() == first and len(downloads(s3)) == 1
    other = make_policy([info("c")]).save(tmp_path / "policy")
    assert s3.upload(other, url.removeprefix("s3://bucket/")) == url
    assert load_policy(url).digest() == load_policy(other).digest() != first
    assert len(downloads(s3)) == 2


@pytest.mark.parametrize("how", ["bit", "gone", "short"])
def test_a_copy_that_was_damaged_comes_again(url, artifact, how):
    file = fetched(url) / "model.safetensors"
    data = bytearray(file.read_bytes())
    if how == "gone":
        file.unlink()
    else:
        data[-1] ^= 1
        file.write_bytes(data if how == "bit" else data[:-7])
    assert load_policy(url).digest() == load_policy(artifact).digest()


@pytest.mark.parametrize("fault", ["503", "drop", "half"])
def test_a_download_that_breaks_off_is_begun_again(url, s3, artifact, fault):
    faults = iter([fault] * 3)
    s3.proxy.fault = lambda method, path: (
        next(faults, None) if method == "GET" and "safetensors" in path else None
    )
    assert load_policy(url).digest() == load_policy(artifact).digest()
    assert next(faults, None) is None


def test_nothing_of_a_download_that_failed_is_left(url, s3):
    s3.proxy.fault = lambda method, path: "half" if method == "GET" and "safe" in path else None
    with pytest.raises(UserError, match="model.safetensors: 6 tries in"):
        fetched(url)
    assert [f for f in cache().folder.rglob("*") if f.is_file()] == []


def test_weights_of_another_policy_are_refused(url, s3, tmp_path):
    other = make_policy([info("a"), info("b", 5, 1)], seed=7).save(tmp_path / "other")
    s3.upload(other / "model.safetensors", f"{url.removeprefix('s3://bucket/')}/model.safetensors")
    with pytest.raises(UserError, match="do not belong together"):
        load_policy(url)


def test_a_folder_of_policies(s3, artifact, request):
    base = f"{request.node.name}/specialists"
    for name in ("a__one", "a__two"):
        s3.upload(artifact, f"{base}/{name}")
    folder = fetched(f"s3://bucket/{base}")
    assert sorted(f.parent.name for f in folder.glob("*/policy.json")) == ["a__one", "a__two"]
    assert load_policy(folder / "a__one").digest() == load_policy(artifact).digest()
    assert fetched(f"s3://bucket/{base}") == folder


def test_an_exported_policy(s3, artifact, tmp_path, request):
    pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")
    from alltrades.policies.onnx.export import export_onnx
    from alltrades.policies.onnx.onnx_policy import OnnxPolicy

    export_onnx(load_policy(artifact), tmp_path / "arm.onnx")
    url = s3.upload(tmp_path, request.node.name)
    assert OnnxPolicy(f"{url}/arm.onnx").digest() == OnnxPolicy(tmp_path / "arm.onnx").digest()
    assert fetched(f"{url}/arm.onnx").name == "arm.onnx"


def test_what_is_no_policy_is_one_line(url, s3):
    base = url.rpartition("/")[0]
    for address in (f"{base}/nothing", f"{base}/nothing.onnx"):
        with pytest.raises(UserError, match="no policy here .* is missing.; expected"):
            fetched(address)
    s3.client().delete_object(Bucket="bucket", Key=f"{base[12:]}/policy/model.safetensors")
    with pytest.raises(UserError, match="model.safetensors is missing"):
        load_policy(url)


def test_a_note_of_a_copy_that_makes_no_sense_is_not_believed(url, artifact):
    copy = fetched(url)
    for note in ("", "[]", json.dumps({"policy.json": 1})):
        (copy / ".fetched.json").write_text(note)
        assert load_policy(url).digest() == load_policy(artifact).digest()
    shutil.rmtree(copy)
    assert load_policy(url).digest() == load_policy(artifact).digest()
