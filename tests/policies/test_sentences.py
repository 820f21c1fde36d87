"""Policies that read sentences: the projection, the table in the artifact, and what is unknown."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from alltrades import cli
from alltrades.data.fields import Field
from alltrades.data.layout import Layout, Slot
from alltrades.data.text import text_features
from alltrades.envs import registry
from alltrades.envs.planar.sentences import COLOURS, MARKS
from alltrades.errors import UserError
from alltrades.policies.learning.initial import build_policy
from alltrades.policies.learning.reading import _fitted, fit_reading
from alltrades.policies.model.batch import Batch
from alltrades.policies.model.encoders import embedding
from alltrades.policies.model.encoders.embedding import NotAtHand
from alltrades.policies.model.encoders.sentences import SentenceEncoder
from alltrades.policies.model.loading import load_policy
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.stacked import StackedPolicy
from alltrades.policies.server.batcher import stable_sizes
from alltrades.policies.settings import PolicySettings, TextSettings

SIZE = 48
SEEN = {s: g for g in MARKS.goals for s in g.training}
STRANGE = "boil three eggs slowly"
MADE = "made"  # name of the encoder of these tests


def made_up(texts):
    """Embeddings in which the words for colours weigh little, and the others much."""
    out = np.zeros((len(texts), SIZE), np.float32)
    for row, text in zip(out, texts):
        for word in text.lower().replace(",", "").split():
            seed = int.from_bytes(word.encode()[:8].ljust(8), "little")
            size = 0.6 if word in COLOURS else 1.0
            row += size * np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)
    return out


@pytest.fixture
def encoder(monkeypatch):
    """A sentence encoder called `made` that counts what it embeds."""
    counted = []

    def loaded(name):
        if name != MADE:
            raise NotAtHand(f"there is no folder or .onnx file {name}")

        def embed(texts):
            counted.extend(texts)
            return made_up(texts)

        return embed

    monkeypatch.setattr(embedding, "_loaded", loaded)
    _fitted.cache_clear()
    yield counted
    _fitted.cache_clear()


def made_policy(encoder=MADE):
    """Untrained, of the state and the instruction of `planar/marks`."""
    spec = registry.get("planar/marks")
    settings = PolicySettings(
        width=16, depth=1, n_action_steps=2, horizon=4, text=TextSettings(encoder=encoder)
    )
    normalizer = Normalizer(Layout([spec.interface]))
    normalizer.fitted.fill_(1.0)
    normalizer.reading = None if encoder == "words" else fit_reading(SEEN, encoder)
    return build_policy(settings, [spec.interface], normalizer, 0).eval()


def said(policy, text):
    """The numbers (32,) that the policy's network gets of a text."""
    (reading,) = policy.reading
    window = policy.layout.pack(0, {"state": np.zeros((1, 10), np.float32), "instruction": text}, 1)
    return reading(torch.from_numpy(window["instruction"])).numpy()[0]


def test_held_out_phrasings_are_read_as_the_goal_that_they_name(encoder):
    reading = fit_reading(SEEN, MADE)
    assert reading.values.shape == (24, 32) and not reading.values[:, 2:].any()
    centers = (reading.means - reading.center) @ reading.matrix
    np.testing.assert_allclose(np.square(centers[:, :2]).mean(0), 1.0, rtol=1e-4)
    for number, goal in enumerate(MARKS.goals):
        embedded = embedding.embed(goal.held_out, MADE)
        z = (embedded - reading.center) @ reading.matrix
        nearest = np.linalg.norm(z[:, None] - centers, axis=-1).argmin(1)
        assert (nearest == number).mean() >= 0.75
    # raw embeddings tell the phrasing, not the goal
    raw = embedding.embed(list(SEEN), MADE)
    apart = np.linalg.norm(raw[:, None] - raw, axis=-1) + 9 * np.eye(len(raw))
    assert (np.array(reading.goals)[apart.argmin(1)] == reading.goals).mean() < 0.5


def test_goals_are_told_apart_where_their_sentences_hardly_differ(encoder, monkeypatch):
    """Nothing but the word for the colour tells, and it is the same in all sentences of a goal."""

    def embed(texts):
        words = (*COLOURS, "go", "move", "mark", "circle", "the")
        return np.array([[word in text for word in words] for text in texts], np.float32)

    monkeypatch.setattr(embedding, "_loaded", lambda name: embed)
    reading = fit_reading(SEEN, MADE)
    own = reading.values[:, :2].reshape(3, 8, 2)
    assert np.ptp(own, axis=1).max() < 0.5 * np.linalg.norm(own[0].mean(0) - own[1].mean(0))


def test_known_sentences_need_no_encoder_after_training(encoder, monkeypatch, tmp_path):
    policy = made_policy()
    expected = {s: said(policy, s) for s in SEEN}
    policy.save(tmp_path / "policy")
    monkeypatch.setattr(embedding, "_loaded", refuse)
    loaded = load_policy(tmp_path / "policy")
    assert loaded.digest() == policy.digest()
    for sentence, value in expected.items():
        loaded.hear(sentence)
        assert np.array_equal(said(loaded, sentence), value) and value.any()
    assert not said(loaded, "").any()


def refuse(name):
    raise NotAtHand("nothing is installed")


def test_a_new_sentence_is_embedded_once_and_changes_neither_digest_nor_artifact(encoder):
    policy = made_policy()
    before, (reading,) = policy.digest(), policy.reading
    held_out = MARKS.goals[1].held_out[0]
    encoder.clear()
    for _ in range(3):
        policy.hear(held_out)
    assert encoder.count(held_out) == 1
    places = ((reading.means - reading.center) @ reading.matrix).numpy()
    z = (embedding.embed([held_out], MADE)[0] - reading.center.numpy()) @ reading.matrix.numpy()
    likely = np.exp(-np.square(places - z).sum(1) / (2 * reading.scatter**2))
    expected = likely @ places / likely.sum()
    assert reading.scatter > 0 and abs(expected - z).max() > 0.01
    np.testing.assert_allclose(said(policy, held_out), expected, atol=1e-5)
    assert policy.digest() == before and "heard" not in str(list(policy.state_dict()))


def test_without_the_encoder_a_new_sentence_is_one_line_or_the_one_of_most_similar_words(
    encoder, monkeypatch, caplog
):
    policy = made_policy()
    monkeypatch.setattr(embedding, "_loaded", refuse)
    with pytest.raises(UserError, match="none of the 24 that this policy knows.*not at hand"):
        policy.hear("go to the green mark now")
    with caplog.at_level(logging.WARNING):
        policy.set_unknown_instruction("nearest").hear("go to the green mark now")
    assert "most similar words" in caplog.text
    assert np.array_equal(
        said(policy, "go to the green mark now"), said(policy, "go to the green mark")
    )


def test_unknown_instructions_are_refused_taken_for_the_nearest_or_warned_of(encoder, caplog):
    with pytest.raises(UserError, match="asks for nothing that this policy was trained for"):
        made_policy().set_unknown_instruction("refuse").hear(STRANGE)
    nearest, warned = made_policy().set_unknown_instruction("nearest"), made_policy()
    with caplog.at_level(logging.WARNING):
        nearest.hear(STRANGE)
        warned.hear(STRANGE)
        warned.hear(STRANGE)
    assert caplog.text.count(STRANGE) == 2 and caplog.text.count("taken for that") == 1
    (reading,) = nearest.reading
    centers = ((reading.means - reading.center) @ reading.matrix).numpy()
    assert np.isclose(centers, said(nearest, STRANGE), atol=1e-5).all(1).sum() == 1
    assert not np.isclose(centers, said(warned, STRANGE), atol=1e-2).all(1).any()
    held_out = MARKS.goals[0].held_out[0]
    nearest.hear(held_out)
    assert np.isclose(centers, said(nearest, held_out), atol=1e-5).all(1).sum() == 1
    caplog.clear()
    made_policy().set_unknown_instruction("refuse").hear("go to the red mark")
    assert not caplog.text


@pytest.mark.parametrize(
    "scatter, z, expected",
    [
        (0.5, 0.3, np.tanh(0.3 / 0.25)),
        (2.0, 0.3, np.tanh(0.3 / 4)),
        (0.0, 0.3, 0.3),  # a goal has too few sentences to say how far they lie
        (0.5, 2.4, np.tanh(2.4 / 0.25)),
        (0.5, 2.6, 2.6),  # beyond three deviations: it asks for something else
    ],
)
@pytest.mark.parametrize("limit", [0.1, 9.0])  # unusual or not
def test_a_new_sentence_is_read_as_what_it_is_expected_to_ask_for(
    encoder, scatter, z, expected, limit
):
    """Two goals at -1 and 1, equally likely, and normal scatter: the posterior mean is a tanh."""
    facts = {"sentences": ["left", "right"], "goals": [0, 1], "size": SIZE, "scatter": scatter}
    reading = SentenceEncoder(Slot("text", "text", "text", (), "float32"), facts, MADE)
    made = torch.from_numpy(embedding.embed(["new"], MADE)[0])
    reading.matrix[0, 0] = 1.0  # numbers are the first of an embedding
    along = reading.matrix[:, 0]
    reading.center.copy_(made - z * along)
    reading.means.copy_(reading.center + torch.tensor([[-1.0], [1.0]]) * along)
    reading.values[:, 0] = torch.tensor([-1.0, 1.0])
    reading.limit.fill_(limit)
    reading._tried = True  # the encoder is the one of the training
    reading.hear(["new"], "warn")
    numbers = reading(torch.from_numpy(text_features("new").copy())[None])[0].numpy()
    assert numbers[0] == pytest.approx(expected, abs=1e-5) and not numbers[1:].any()


def test_how_near_a_sentence_is_counts_per_number(encoder):
    policy = made_policy()
    (reading,) = policy.reading
    places = ((reading.means - reading.center) @ reading.matrix)[0]
    used = (reading.values.abs().amax(0) > 0).float()
    assert used.sum() == 2
    for deviations, changed in ((2.9, True), (3.1, False)):
        value = places + deviations * reading.scatter * used * places.sign()  # outwards
        found = reading._without_scatter(value)
        assert torch.equal(found, value) != changed


def test_another_encoder_than_that_of_the_training_is_refused(encoder, monkeypatch):
    policy = made_policy()
    monkeypatch.setattr(embedding, "_loaded", lambda name: lambda t: -made_up(t)[:, ::-1])
    with pytest.raises(UserError, match="not the one that this policy was trained with"):
        policy.hear("go to the red mark quickly")


def test_policies_that_read_words_know_no_instruction_from_another():
    policy = made_policy("words")
    assert not policy.reading and "sentences" not in policy._description()
    policy.hear(STRANGE)
    with pytest.raises(UserError, match="reads its texts word by word"):
        policy.set_unknown_instruction("refuse")


def test_what_cannot_be_read_is_said_before_training(encoder):
    with pytest.raises(UserError, match="no folder or .onnx file lost"):
        fit_reading(SEEN, "lost")
    with pytest.raises(UserError, match="no sentences to learn from"):
        fit_reading({}, MADE)
    with pytest.raises(UserError, match="have the same words and ask for different things"):
        fit_reading({"open it then close it": 0, "close it then open it": 1}, MADE)


def test_sentences_without_declared_goals_are_goals_of_their_own(encoder):
    reading = fit_reading({"fold the cloth": 0, "stack the cups": 1, "wipe the table": 2}, MADE)
    assert np.linalg.matrix_rank(reading.values, tol=1e-3) == 2
    alone = fit_reading({"fold the cloth": 0}, MADE)
    assert not alone.values.any() and np.isfinite(alone.limit)


def test_a_graph_has_the_table_and_reads_what_was_heard_before_export(encoder, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from alltrades.policies.onnx.export import compiled

    policy = made_policy()
    held_out = MARKS.goals[2].held_out[1]
    policy.hear(held_out)
    graph = compiled(policy, 1)
    noise = np.zeros((1, policy.draws, policy.horizon, policy.action_dim), np.float32)
    for text in (held_out, *list(SEEN)[::7]):
        window = {
            k: v[None]
            for k, v in policy.layout.pack(
                0, {"state": np.ones((1, 10), np.float32), "instruction": text}, 1
            ).items()
        }
        inputs = window, np.zeros(1, np.int64), noise
        graph.hear(text)
        np.testing.assert_allclose(graph.act(*inputs), policy.act(*inputs), atol=1e-4)
    with pytest.raises(UserError, match="none of the 25 that this graph knows"):
        graph.hear(STRANGE)


def test_an_artifact_of_damaged_sentences_is_one_line(encoder, tmp_path):
    policy = made_policy()
    policy.save(tmp_path / "policy")
    file = tmp_path / "policy" / "policy.json"
    facts = json.loads(file.read_text())
    assert facts["sentences"]["sentences"] == list(SEEN)
    facts["sentences"] = {"sentences": ["a"]}
    file.write_text(json.dumps(facts))
    with pytest.raises(UserError):
        load_policy(tmp_path / "policy")


def test_a_second_field_of_text_reads_by_the_same_table(encoder):
    spec = registry.get("planar/marks")
    two = replace(spec, observation=dict(spec.observation) | {"hint": Field.text()})
    settings = PolicySettings(width=16, depth=1, text=TextSettings(encoder=MADE))
    normalizer = Normalizer(Layout([two.interface]))
    normalizer.reading = fit_reading(SEEN, MADE)
    first, second = build_policy(settings, [two.interface], normalizer, 0).reading
    assert torch.equal(first.values, second.values) and first is not second


def test_a_specialist_that_reads_sentences_is_trained_as_it_would_be_alone(encoder, tmp_path):
    policy = made_policy()
    policy.save(tmp_path)
    for member in (policy, load_policy(tmp_path)):
        stack = StackedPolicy([member]).eval()
        for text in (*list(SEEN)[::5], MARKS.goals[1].held_out[0]):
            window = policy.layout.pack(
                0, {"state": np.ones((1, 10), np.float32), "instruction": text}, 1
            )
            for own in (stack, member):
                own.hear(text)
            seen = {key: torch.from_numpy(x)[None] for key, x in window.items()}
            here = torch.zeros(1, dtype=torch.long)
            assert torch.equal(stack.condition(seen, here), member.condition(seen, here))


def phrasings(texts):
    """Embeddings of "goal phrasing": a mean of the goal, and as much again of the phrasing."""
    out = []
    for text in texts:
        goal, phrasing = (int(word) for word in text.split())
        mean = np.random.default_rng(goal).standard_normal(SIZE)
        out.append(mean + np.random.default_rng((goal, phrasing)).standard_normal(SIZE))
    return np.array(out, np.float32)


def test_the_scatter_of_a_reading_is_that_of_sentences_it_was_not_fitted_on(encoder, monkeypatch):
    monkeypatch.setattr(embedding, "_loaded", lambda name: phrasings)
    reading = fit_reading({f"{k} {i}": k for k in range(4) for i in range(10, 19)}, MADE)
    centers = (reading.means - reading.center) @ reading.matrix

    def off(values, goals):
        return np.sqrt(np.square(values - centers[goals])[:, :3].mean())

    fresh = [f"{goal} {i}" for goal in range(4) for i in range(100, 300)]
    z = (embedding.embed(fresh, MADE) - reading.center) @ reading.matrix
    assert 0.75 < reading.scatter / off(z, np.repeat(np.arange(4), 200)) < 1.5
    assert off(reading.values, np.array(reading.goals)) < 0.8 * reading.scatter
    two = fit_reading({f"{k} {i}": k for k in range(4) for i in range(10, 12)}, MADE)
    assert two.scatter == 0


def test_sentences_are_misheard_in_training_alone_and_by_the_measured_scatter(encoder, tmp_path):
    made_policy().save(tmp_path)
    policy = load_policy(tmp_path)
    (reading,) = policy.reading
    expected = fit_reading(SEEN, MADE)
    assert reading.scatter == pytest.approx(expected.scatter) and reading.scatter > 0
    texts = [*list(SEEN)[::3], "", ""]
    frames = torch.from_numpy(np.stack([text_features(text) for text in texts]))
    off = reading.misheard(frames, torch.ones(len(texts), 32)) - reading(frames)
    assert torch.allclose(off[:-2, :2], torch.full((8, 2), reading.scatter))
    assert not off[-2:].any() and not off[:, 2:].any()

    policy.normalizer.action_mask.fill_(1.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in policy.parameters():  # the last ones are zero at first
            torch.nn.init.normal_(parameter, std=0.3)
    batch = a_batch(policy)

    def loss(policy):
        return policy.loss(batch, torch.Generator().manual_seed(3))

    heard = loss(policy.eval())
    misheard = loss(policy.train())
    assert not torch.equal(heard, misheard) and torch.equal(misheard, loss(policy))
    text = policy.settings.text.model_copy(update={"noise": 0.0})
    policy.settings = policy.settings.model_copy(update={"text": text})
    assert torch.equal(loss(policy), heard)


def a_batch(policy):
    """Of a row for each sentence of training."""
    count, state = len(SEEN), np.ones((1, 10), np.float32)
    rows = [policy.layout.pack(0, {"state": state, "instruction": text}, 1) for text in SEEN]
    window = {key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]}
    return Batch(
        window,
        torch.zeros(count, policy.horizon, policy.action_dim),
        torch.ones(count, policy.horizon),
        torch.zeros(count, dtype=torch.long),
        torch.ones(count),
    )


def test_a_policy_is_warmed_up_with_sentences_that_it_knows(encoder):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from alltrades.policies.onnx.export import compiled

    policy = made_policy().set_unknown_instruction("refuse")
    for own in (policy, compiled(policy, 2)):
        assert set(own.sentences) == set(SEEN)
        encoder.clear()
        assert stable_sizes(own, 2)[-1] == 2 and not encoder
    assert made_policy("words").sentences == ()


def test_instructions_of_an_export_are_for_policies_that_read_sentences(encoder, tmp_path, capsys):
    made_policy("words").save(tmp_path / "words")
    made_policy().save(tmp_path / "sentences")
    for name, said in (("words", "go"), ("sentences", " ")):
        words = ["export", str(tmp_path / name), "--instructions", said]
        assert cli.main(words) == 2
        assert "expected sentences, and a policy that reads them" in capsys.readouterr().err
        assert not (tmp_path / name / "export.onnx").exists()
