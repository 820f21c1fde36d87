"""`alltrades data merge | split | filter | sample | rename | relabel`."""

import json
from dataclasses import replace

import numpy as np
import pytest

from alltrades import cli
from alltrades.data.actions import ActionSpec
from alltrades.data.editing.copying import Copy
from alltrades.data.episode import Episode
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.store import EpisodeStore
from tests.data.stores import episode, rich_episode


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, episodes, interfaces=(), **provenance):
    with EpisodeStore.create(name, interfaces, provenance) as store:
        store.extend(episodes)
    return EpisodeStore.open(name)


def data(*words) -> int:
    return cli.main(["data", *map(str, words)])


def same(a: Episode, b: Episode) -> bool:
    """Bit for bit."""
    for name in ("actions", "rewards", "successes"):
        x, y = getattr(a, name), getattr(b, name)
        if (x is None) != (y is None) or (x is not None and x.tobytes() != y.tobytes()):
            return False
    for name, x in a.observations.items():
        y = b.observations[name]
        equal = x == y if isinstance(x, str) else (x.dtype, x.tobytes()) == (y.dtype, y.tobytes())
        if not equal:
            return False
    facts = ("environment", "source", "seed", "success", "first_success", "return_")
    return list(a.observations) == list(b.observations) and all(
        getattr(a, f) == getattr(b, f) for f in facts
    )


def mixed(seeds, environments=("a", "rich")):
    """Episodes of every kind of field, with and without actions, of two environments."""
    for s in seeds:
        yield episode(s, length=3 + s % 5, environment=environments[0], source=f"by {s % 3}")
        yield rich_episode(s, actions=s % 2 == 0, environment=environments[1])


def test_merged_parts_of_a_split_are_the_store(capsys):
    store = write("s", mixed(range(20)), kind="demonstrations")
    assert data("split", "s", "--shares", 0.6, 0.3, 0.1, "--out", "x", "y", "z") == 0
    parts = [EpisodeStore.open(p) for p in "xyz"]
    for environment in ("a", "rich"):  # stratified
        counts = [(p.columns()["environment"] == environment).sum() for p in parts]
        assert counts == [12, 6, 2]
    assert data("merge", "x", "y", "z", "--out", "m") == 0
    merged = EpisodeStore.open("m")
    key = lambda e: (e.environment, e.seed)  # noqa: E731
    before, after = (sorted(s.episodes(), key=key) for s in (store, merged))
    assert len(after) == 40 and all(map(same, before, after))
    assert merged.provenance["kind"] == "demonstrations"
    assert {n: i.to_json() for n, i in merged.interfaces().items()} == {
        n: i.to_json() for n, i in store.interfaces().items()
    }
    assert "made: {'command': 'data merge'" in capsys.readouterr().out


def test_a_filter_that_holds_of_all_keeps_the_digest():
    store = write("s", mixed(range(6)))
    assert data("filter", "s", "--where", "length > 0", "--out", "f") == 0
    assert EpisodeStore.open("f").digest() == store.digest()


def test_episodes_without_actions_are_told_by_a_condition():
    write("s", mixed(range(4)))
    assert data("filter", "s", "--where", "not actions", "--out", "f") == 0
    assert EpisodeStore.open("f").columns()["seed"].tolist() == [1, 3]
    assert EpisodeStore.open("f").episode(0).actions is None


def test_a_split_is_a_function_of_its_seed_and_of_each_environment_alone():
    write("s", mixed(range(10)))
    write("only", [e for e in mixed(range(10)) if e.environment == "a"])
    for seed, out in ((0, "0"), (0, "again"), (1, "1")):
        command = ("split", "s", "--shares", 0.5, 0.5, "--seed", seed)
        assert data(*command, "--out", f"x{out}", f"y{out}") == 0
    assert data("split", "only", "--shares", 0.5, 0.5, "--out", "xa", "ya") == 0
    first, again, other, alone = (
        EpisodeStore.open(f"x{n}").columns() for n in ("0", "again", "1", "a")
    )
    assert first["seed"].tolist() == again["seed"].tolist() != other["seed"].tolist()
    assert alone["seed"].tolist() == first["seed"][first["environment"] == "a"].tolist()


def test_a_split_by_condition_has_those_and_the_others():
    write("s", [episode(i) for i in range(7)])  # of even seeds successful
    assert data("split", "s", "--where", "success", "--out", "good", "rest") == 0
    assert EpisodeStore.open("good").columns()["seed"].tolist() == [0, 2, 4, 6]
    assert EpisodeStore.open("rest").columns()["seed"].tolist() == [1, 3, 5]


def test_provenance_says_which_episode_comes_from_where():
    write("s", [episode(i) for i in range(6)], robot="arm")
    write("t", [episode(i + 10) for i in range(6)])
    assert data("filter", "s", "t", "--where", "seed != 1", "seed < 14", "--out", "f") == 0
    made = EpisodeStore.open("f").provenance["made"]
    assert made["command"] == "data filter"
    assert made["options"]["where"] == ["seed != 1", "seed < 14"]
    s, t = made["sources"]
    assert (s["episodes"], t["episodes"]) == ("0, 2-5", "0-3")
    assert s["provenance"] == {"robot": "arm"}
    assert s["digest"] == EpisodeStore.open("s").digest() and s["store"].endswith("/s")
    assert EpisodeStore.open("f").columns()["seed"].tolist() == [0, 2, 3, 4, 5, 10, 11, 12, 13]


def test_a_sample_is_so_many_or_a_share_of_every_environment():
    write("s", mixed(range(10)))
    assert data("sample", "s", "--episodes", 3, "--out", "n") == 0
    assert data("sample", "s", "--share", 0.2, "--where", "seed < 5", "--out", "p") == 0
    for name, count in (("n", 3), ("p", 1)):
        columns = EpisodeStore.open(name).columns()
        assert [(columns["environment"] == e).sum() for e in ("a", "rich")] == [count, count]
    assert (EpisodeStore.open("p").columns()["seed"] < 5).all()


def test_names_of_environments_and_fields_are_changed_at_once():
    store = write("s", mixed(range(4)))
    assert (
        data(
            "rename",
            "s",
            "a=lab/a",
            "state=pose.tip",
            "images/front=images.top",
            "observation.action=success",
            "observation.success=action",
            "--out",
            "r",
        )
        == 0
    )
    renamed = EpisodeStore.open("r")
    names = {"state": "pose.tip", "images.front": "images.top"}
    names |= {"action": "success", "success": "action"}
    for before, after in zip(store.episodes(), renamed.episodes()):
        back = {k: after.observations[names.get(k, k)] for k in before.observations}
        assert same(before, replace(after, observations=back, environment=before.environment))
        assert after.environment == {"a": "lab/a"}.get(before.environment, before.environment)
    assert list(renamed.interfaces()) == ["lab/a", "rich"]


def test_labels_change_for_the_chosen_episodes_alone():
    store = write("s", mixed(range(4)))
    assert (
        data(
            "relabel",
            "s",
            "--where",
            "environment == rich and seed < 2",
            "--success",
            "true",
            "--source",
            "me",
            "--instruction",
            "fold it",
            "--out",
            "r",
        )
        == 0
    )
    for before, after in zip(store.episodes(), EpisodeStore.open("r").episodes()):
        if before.environment != "rich" or before.seed >= 2:
            assert same(before, after)
            continue
        assert (after.success, after.first_success, after.source) == (True, 4, "me")
        assert after.successes.tolist() == [False, False, False, True]
        assert after.observations["instruction"] == "fold it"
        rest = {**after.observations, "instruction": before.observations["instruction"]}
        facts = {k: getattr(before, k) for k in ("success", "first_success", "successes", "source")}
        assert same(before, replace(after, observations=rest, **facts))


def test_labels_come_from_a_table():
    store = write("s", [episode(i) for i in range(4)])
    with open("l.csv", "w") as file:
        file.write("episode,success,source\n1,true,\n0,false,me\n2,unknown,\n3,false,\n")
    assert data("relabel", "s", "--csv", "l.csv", "--out", "r") == 0
    columns = EpisodeStore.open("r").columns()
    assert columns["first_success"].tolist() == [-1, 5, -2, -1]
    assert columns["success"].tolist() == [False, True, False, False]
    assert columns["source"].tolist() == ["me", "expert", "expert", "expert"]
    assert same(store.episode(3), EpisodeStore.open("r").episode(3))  # said what it was


def test_an_instruction_becomes_a_field_where_every_episode_gets_one(capsys):
    write("s", [episode(i) for i in range(3)])
    assert data("relabel", "s", "--instruction", "fold it", "--out", "r") == 0
    assert EpisodeStore.open("r").steps().text["task"].tolist() == ["fold it"] * 3
    words = ("--where", "seed < 2", "--instruction", "fold it", "--out", "q")
    assert data("relabel", "s", *words) == 2
    assert "2 of 3 episodes would get an instruction" in capsys.readouterr().err


def described(**facts):
    spec = ActionSpec([-1, -1], [1, 1], names=facts.pop("names", None))
    field = Field.state(3, units=facts.pop("units", None))
    return Interface("a", {"state": field}, spec, **facts)


def test_what_either_store_knows_of_an_environment_is_kept():
    write("s", [episode(0)], [described(names=("x", "y"))])
    write("t", [episode(1)], [described(units=("m", "m", "m"), control_hz=20)])
    write("u", [episode(2)])
    assert data("merge", "u", "s", "t", "--out", "m") == 0
    interface = EpisodeStore.open("m").interfaces()["a"]
    assert interface.action.names == ("x", "y") and interface.control_hz == 20
    assert interface.observation["state"].units == ("m", "m", "m")
    assert interface.action.low == (-1, -1)


@pytest.mark.parametrize(
    "first, second, said",
    [
        ({"names": ("x", "y")}, {"names": ("y", "x")}, "actions have names y, x, not x, y"),
        ({"units": ("m",) * 3}, {"units": ("mm",) * 3}, "have units mm, mm, mm, not m, m, m"),
        ({"control_hz": 10}, {"control_hz": 20}, "it runs at 20 Hz, not 10"),
        ({"version": 1}, {"version": 2}, "version 2, not 1"),
    ],
)
def test_stores_that_describe_an_environment_differently_are_not_merged(
    capsys, tmp_path, first, second, said
):
    write("s", [episode(0)], [described(**first)])
    write("t", [episode(1)], [described(**second)])
    assert data("merge", "s", "t", "--out", "m") == 2
    line = capsys.readouterr().err
    assert "t: 'a' differs from that of s" in line and said in line and line.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s", "t"]


def test_stores_of_other_sizes_are_not_merged(capsys):
    write("s", [episode(0)])
    write("t", [episode(1, obs=4)])
    write("u", [episode(1, act=3)])
    assert data("merge", "s", "t", "--out", "m") == 2
    assert "'state' is a state of 4 numbers, not a state of 3 numbers" in capsys.readouterr().err
    assert data("merge", "s", "u", "--out", "m") == 2
    assert "actions have 3 numbers, not 2" in capsys.readouterr().err


def test_episodes_that_two_stores_hold_are_refused_or_dropped(capsys):
    write("s", [episode(i) for i in range(6)])
    assert data("filter", "s", "--where", "seed < 2", "--out", "f") == 0
    write("t", [episode(7, obs=3), replace(episode(3), actions=episode(3).actions + 0.1)])
    again = replace(episode(3), rewards=np.zeros(5, np.float32), seed=90, return_=0.0)
    write("u", [episode(8), again])
    capsys.readouterr()
    assert data("merge", "s", "f", "--out", "m") == 2
    assert "f: episode 0 is episode 0 of s, and 2 in all are there twice" in capsys.readouterr().err
    assert data("merge", "s", "f", "--duplicates", "drop", "--out", "m") == 0
    assert len(EpisodeStore.open("m")) == 6
    assert data("merge", "s", "f", "--duplicates", "keep", "--out", "k") == 0
    assert len(EpisodeStore.open("k")) == 8
    assert data("merge", "s", "t", "--out", "other") == 0  # alike, and not the same
    assert data("merge", "s", "u", "--out", "n") == 2  # a format keeps no seeds and rewards
    assert "u: episode 1 is episode 3 of s, and 1 in all are" in capsys.readouterr().err
    assert (
        data(
            "merge",
            "s",
            "../" + EpisodeStore.open("s").path.resolve().parent.name + "/s",
            "--out",
            "n",
        )
        == 2
    )
    assert "named twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ("filter", "s", "--where", "return > 9", "--out", "o"),
            "holds of none of 4 episodes (return 1.5 to 1.5)",
        ),
        (
            ("filter", "s", "--where", "environment == b", "--out", "o"),
            "no episode has environment 'b'",
        ),
        (("filter", "s", "--where", "weight > 1", "--out", "o"), "no column 'weight'"),
        (("filter", "s", "--where", "seed < 3", "--out", "s"), "something is there already"),
        (("filter", "s", "--where", "seed < 3", "--out", "s/o"), "inside the store"),
        (("merge", "s", "nowhere", "--out", "o"), "no such store"),
        (("split", "s", "--out", "x", "y"), "expected either --shares or --where"),
        (("split", "s", "--shares", ".5", ".5", "--out", "x"), "1 paths after --out; expected 2"),
        (("split", "s", "--shares", ".5", ".5", "--out", "x", "./x"), "named twice"),
        (("split", "s", "--shares", ".5", ".4", "--out", "x", "y"), "they sum to 0.9"),
        (("split", "s", "--shares", ".99", ".01", "--out", "x", "y"), "share 0.01 of 4 episodes"),
        (("split", "s", "--where", "length > 0", "--out", "x", "y"), "holds of all 4 episodes"),
        (("sample", "s", "--out", "o"), "expected either --episodes or --share"),
        (("sample", "s", "--episodes", "5", "--out", "o"), "'a' has 4"),
        (("sample", "s", "--share", "1.5", "--out", "o"), "between 0 and 1"),
        (("sample", "s", "--share", "0.5", "--seed", "-1", "--out", "o"), "--seed -1"),
        (("rename", "s", "b=c", "--out", "o"), "no environment or field 'b'"),
        (("rename", "s", "stat=pos", "--out", "o"), "did you mean 'state'?"),
        (("rename", "s", "state=a b", "--out", "o"), "a field called 'a b'"),
        (("rename", "s", "a", "--out", "o"), "expected OLD=NEW"),
        (("rename", "s", "a=meta", "--out", "o"), "'meta' cannot name an environment"),
        (("relabel", "s", "--out", "o"), "expected either --csv, or some of"),
        (("relabel", "s", "--csv", "no.csv", "--out", "o"), "no.csv: cannot be read"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(capsys, tmp_path, words, said):
    store = write("s", [episode(i) for i in range(4)])
    before = store.digest()
    assert data(*words) == 2
    line = capsys.readouterr().err
    assert said in line and line.count("\n") == 1, line
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    assert EpisodeStore.open("s").digest() == before


def test_two_fields_never_get_one_name(capsys):
    write("s", [rich_episode(0)])
    assert data("rename", "s", "depth=heat", "--out", "o") == 2
    assert "would have two fields 'heat'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "table, said",
    [
        ("success\ntrue\n", "expected episode and some of"),
        ("episode,sucess\n1,true\n", "columns episode, sucess"),
        ("episode,success\n9,true\n", "line 2: episode '9'; expected each of 0 to 3"),
        ("episode,success\n1,true\n1,false\n", "line 3: episode '1'"),
        (
            "episode,success\n0,true\n\n1,ja\n",
            "l.csv: line 4: success 'ja'; expected true, false or unknown",
        ),
        ('episode,instruction\n0,"two\nlines"\n9,go\n', "l.csv: line 4: episode '9'"),
        ("episode,success,success\n1,true,false\n", "each once; mend its first line"),
        ("episode,success\n1,true,more\n", "line 2"),
        ("", "columns none"),
        ("episode,success\n0,\n", "l.csv: labels no episode"),
        ("episode,source\n0,  \n", "l.csv: line 2: an empty source; expected a name"),
    ],
)
def test_a_table_that_is_none_of_labels_is_one_line(capsys, table, said):
    write("s", [episode(i) for i in range(4)])
    with open("l.csv", "w") as file:
        file.write(table)
    assert data("relabel", "s", "--csv", "l.csv", "--out", "o") == 2
    line = capsys.readouterr().err
    assert said in line and line.count("\n") == 1, line


def interrupt(monkeypatch, after):
    """Let the copying of an episode with this number fail as a kill would."""
    real = EpisodeStore.episode

    def reading(self, i):
        if i == after:
            raise KeyboardInterrupt
        return real(self, i)

    monkeypatch.setattr(EpisodeStore, "episode", reading)


def test_an_interrupted_command_goes_on_and_shows_no_half_store(monkeypatch, capsys, tmp_path):
    write("s", [episode(i) for i in range(12)])
    command = ("split", "s", "--shares", 0.5, 0.5, "--out", "x", "y")
    with monkeypatch.context() as patch:
        patch.setattr("alltrades.data.store.BATCH", 2)
        interrupt(patch, 9)
        assert data(*command) == 130
    assert not (tmp_path / "x").exists() and not (tmp_path / "y").exists()
    assert any(p.name.endswith(".copying") for p in tmp_path.iterdir())
    assert data("filter", "s", "--where", "seed < 9", "--out", "x") == 2
    assert "another command that makes x is unfinished" in capsys.readouterr().err
    assert data(*command) == 0
    assert data("split", "s", "--shares", 0.5, 0.5, "--out", "p", "q") == 0
    for mine, whole in (("x", "p"), ("y", "q")):
        assert EpisodeStore.open(mine).digest() == EpisodeStore.open(whole).digest()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p", "q", "s", "x", "y"]
    assert data(*command) == 2 and "x: something is there already" in capsys.readouterr().err


def test_a_split_cut_between_its_last_steps_goes_on(monkeypatch):
    write("s", [episode(i) for i in range(6)])
    command = ("split", "s", "--where", "success", "--out", "x", "y")
    real, finished = Copy.finish, []

    def finish(self):
        finished.append(self)
        if len(finished) == 2:
            raise KeyboardInterrupt
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Copy, "finish", finish)
        assert data(*command) == 130
    assert data(*command) == 0
    assert EpisodeStore.open("y").columns()["seed"].tolist() == [1, 3, 5]


def test_an_episode_that_cannot_be_read_leaves_nothing_and_can_be_left_out(capsys, tmp_path):
    write("s", (episode(i, length=40000, obs=30) for i in range(4)))  # several chunks
    chunks = sorted((tmp_path / "s" / "a" / "data" / "state" / "c").rglob("*"))
    last = max((p for p in chunks if p.is_file()), key=lambda p: int(p.parent.name))
    last.write_bytes(last.read_bytes()[:-9])
    assert data("filter", "s", "--where", "seed >= 0", "--out", "f") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    assert data("filter", "s", "--where", "episode < 2", "--out", "f") == 0
    assert len(EpisodeStore.open("f")) == 2


def test_the_weight_of_an_episode_is_the_mean_of_its_steps(monkeypatch):
    write("s", [episode(i, length=2) for i in range(3)])
    column = np.array([1.0, 3.0, np.nan, 0.5, np.nan, np.nan])
    monkeypatch.setattr(
        "alltrades.pipeline.weights_folder.weight_column", lambda store, folder: column
    )
    for condition, seeds in (
        ("weight >= 2", [0]),
        ("weight == 0.5", [1]),
        ("weight == unknown", [2]),
    ):
        out = f"f{seeds[0]}"
        assert data("filter", "s", "--weights", "w", "--where", condition, "--out", out) == 0
        assert EpisodeStore.open(out).columns()["seed"].tolist() == seeds


def test_a_long_origin_is_cut_where_it_is_shown_and_whole_in_the_store(capsys):
    write("s", [episode(i) for i in range(300)])
    assert data("filter", "s", "--where", "success", "--out", "f") == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) < 400
    commit = json.loads(open("f/commit.json").read())
    assert commit["provenance"]["made"]["sources"][0]["episodes"].endswith("296, 298")
