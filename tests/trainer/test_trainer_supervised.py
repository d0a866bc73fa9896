"""The supervised algorithm: losses, batches, schedule, resumption, early stopping and its failures."""

import math

import numpy as np
import pytest
import torch

from tests.trainer.devices import needs_gpu, on_every_device
from tidegate_trainer import connect4
from tidegate_trainer.algorithms import check_config
from tidegate_trainer.algorithms.supervised import loop as loop_module
from tidegate_trainer.algorithms.supervised.algorithm import Supervised
from tidegate_trainer.algorithms.supervised.config import SupervisedConfig
from tidegate_trainer.algorithms.supervised.evaluation import evaluate, policy_loss
from tidegate_trainer.algorithms.supervised.examples import BatchOrder, to_examples
from tidegate_trainer.algorithms.supervised.loop import Loop, learning_rate
from tidegate_trainer.algorithms.supervised.network import build_network
from tidegate_trainer.artifacts import ArtifactStore
from tidegate_trainer.checkpoints import Checkpoints
from tidegate_trainer.contract import TrainingJob
from tidegate_trainer.errors import Reason, TrainingError
from tidegate_trainer.progress import ProgressReporter
from tidegate_trainer.tracking import Tracker
from tidegate_trainer.training import Context, StopSignal

pytestmark = pytest.mark.slow
"""Small networks are trained here."""

CPU = torch.device("cpu")


class StopAt(StopSignal):
    """Asks to stop when it has been looked at so many times."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    @property
    def requested(self):
        self.looks -= 1
        return self.looks < 0


@pytest.fixture
def train(document, tmp_path):
    """Run the algorithm in a new pod."""

    def run(stop=None, pod="pod", base=None, **config):
        document["trainer"]["config"] |= config
        job = TrainingJob.model_validate(document)
        store = ArtifactStore(patience=0)
        checkpoints = Checkpoints(store, "f", (tmp_path / pod).as_uri(), job.checkpoint.uri)
        context = Context(
            job, check_config(job), store, checkpoints, checkpoints.latest(), base,
            ProgressReporter(None), Tracker(None), stop or StopSignal(),
        )  # fmt: skip
        return Supervised().train(context)

    return run


def weights(trained):
    return {name: tensor.numpy() for name, tensor in trained.network.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert np.array_equal(array, other[name]), name


@on_every_device
def test_the_same_seed_gives_the_same_network(train, document, device):
    document["trainer"]["config"]["device"] = device
    document["checkpoint"]["uri"] = None
    one, other = train(pod="one"), train(pod="other")
    assert_same(weights(one), weights(other))
    assert one.metrics | {"trainSeconds": 0} == other.metrics | {"trainSeconds": 0}
    document["seed"] = 8
    assert not np.array_equal(weights(train(pod="third"))["policy.weight"], weights(one)["policy.weight"])


@on_every_device
@pytest.mark.parametrize(("stride", "looks"), [*((1, looks) for looks in (1, 3, 15, 16, 25, 44)), (10, 1), (10, 4)])
def test_a_stopped_training_ends_as_an_undisturbed_one(train, document, monkeypatch, device, stride, looks):
    document["trainer"]["config"]["device"] = device
    remote = document["checkpoint"]["uri"]
    document["checkpoint"]["uri"] = None
    undisturbed = train(pod="undisturbed")
    monkeypatch.setattr(loop_module, "_stride", lambda device: stride)
    document["checkpoint"]["uri"] = remote
    with pytest.raises(TrainingError) as caught:
        train(StopAt(looks), pod="first")
    assert (caught.value.reason, caught.value.exit_code) == (Reason.STOPPED, 143)
    if looks < 40:
        with pytest.raises(TrainingError):
            train(StopAt(2), pod="second")
    resumed = train(pod="third")
    assert_same(weights(undisturbed), weights(resumed))
    assert resumed.metrics["steps"] == undisturbed.metrics["steps"] == 3 * 15


def test_a_torn_checkpoint_costs_time_and_nothing_else(train, document, tmp_path):
    undisturbed = weights(train(pod="undisturbed"))
    document["checkpoint"] |= {"uri": (tmp_path / "again").as_uri(), "intervalSeconds": 1e-9}
    with pytest.raises(TrainingError):
        train(StopAt(20), pod="first")
    newest = max((tmp_path / "again").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[:1000])
    assert_same(undisturbed, weights(train(pod="second")))


@needs_gpu
def test_a_training_begun_on_a_gpu_goes_on_without_one(train, monkeypatch):
    with pytest.raises(TrainingError, match="checkpoint kept at step 10"):
        train(StopAt(1), pod="first", device="auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    steps = []
    monkeypatch.setattr(
        loop_module, "learning_rate", lambda config, step, _: steps.append(step) or config.learning_rate
    )
    trained = train(pod="second", device="auto")
    assert (trained.notes["device"], steps) == ("cpu", list(range(10, 45)))


def test_a_finished_training_is_not_trained_again(train, monkeypatch):
    finished = train(pod="first")
    monkeypatch.setattr(Loop, "_step", lambda _: pytest.fail("trained again"))
    assert_same(weights(finished), weights(train(pod="second")))


def test_learning_beats_random_moves_and_reports_both(train):
    metrics = train(maxExamples=2000, epochs=6, learningRate=0.01).metrics
    assert metrics["moveAccuracy"] > metrics["randomMoveAccuracy"] + 0.05
    assert metrics["randomMoveAccuracy"] == pytest.approx(0.62, abs=0.06)
    assert metrics["heldOutPositions"] == 200
    assert all(math.isfinite(value) for value in metrics.values())


def test_training_never_sees_held_out_positions(train, monkeypatch):
    seen = []
    original = loop_module.Loop.__init__

    def spy(self, context, network, training, validation):
        seen.append((training, validation))
        original(self, context, network, training, validation)

    monkeypatch.setattr(loop_module.Loop, "__init__", spy)
    trained = train()
    (training, validation), held_out = seen[0], trained.inputs["board"]
    boards = {tuple(board.ravel()) for board in np.concatenate([held_out, held_out[..., ::-1]]).astype(np.uint8)}
    for part in (training, validation):
        assert not boards & {tuple(board.ravel()) for board in part.boards.numpy()}


def test_early_stopping_ends_after_patience_and_keeps_the_best(train, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 1.5, 1.2, 0.1])
    kept = []

    def fake(network, examples):
        kept.append({name: tensor.clone().numpy() for name, tensor in network.state_dict().items()})
        return dict.fromkeys(("moveAccuracy", "randomMoveAccuracy", "valueAccuracy", "valueLoss"), 0.0) | {
            "policyLoss": next(losses)
        }

    monkeypatch.setattr(loop_module, "evaluate", fake)
    trained = train(epochs=6, earlyStoppingPatience=2)
    assert (trained.metrics["epochs"], trained.metrics["bestEpoch"]) == (4, 2)
    assert_same(weights(trained), kept[1])


def test_max_seconds_ends_early_with_an_evaluated_network(train):
    trained = train(epochs=1000, maxSeconds=1e-6)
    assert trained.metrics["steps"] == 1
    assert trained.metrics["moveAccuracy"] > 0


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_with_the_remedy(train, monkeypatch, broken):
    losses = iter([1.0, 1.0, broken])
    monkeypatch.setattr(loop_module, "value_loss", lambda value, _: value.mean() * 0 + next(losses))
    with pytest.raises(TrainingError) as caught:
        train(learningRate=1.0)
    error = caught.value
    assert "by step 3 of 45 (epoch 1)" in error.message
    assert (error.reason, error.retryable) == (Reason.NAN_LOSS, False)
    assert "lower trainer.config.learningRate (1)" in error.message


@pytest.mark.parametrize(("gpus", "said"), [(0, "set spec.resources.gpus"), (2, "given 2 GPU(s)")])
def test_cuda_that_is_not_there_is_named(train, document, monkeypatch, gpus, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    document["resources"]["gpus"] = gpus
    with pytest.raises(TrainingError, match=r"trainer\.config\.device: cuda") as caught:
        train(device="cuda")
    assert caught.value.reason is Reason.INVALID_CONFIG
    assert said in caught.value.message


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_gpu_that_was_given_and_is_not_seen_is_told(train, document, monkeypatch, caplog, gpus):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    document["resources"]["gpus"] = gpus
    assert train(device="auto", epochs=1).notes["device"] == "cpu"
    assert ("training on the CPU" in caplog.text) == (gpus == 1)


def test_too_few_positions_say_how_many_are_missing(train):
    with pytest.raises(TrainingError) as caught:
        train(heldOutFraction=0.001)
    assert caught.value.reason is Reason.INVALID_CONFIG
    assert "at least 64 must be held out" in caught.value.message


def test_a_base_model_is_where_training_starts(train):
    first = train(pod="first", epochs=6)
    base = first.network.state_dict()
    again = train(pod="second", base=base, epochs=1, learningRate=1e-9)
    close = [
        np.allclose(array, weights(again)[name], atol=1e-4)
        for name, array in weights(first).items()
        if "num" not in name and "running" not in name
    ]
    assert all(close)


@pytest.mark.slow
def test_a_base_model_of_another_shape_says_which_fields_to_change(train):
    base = build_network(SupervisedConfig(blocks=1, channels=16), 0).state_dict()
    with pytest.raises(TrainingError) as caught:
        train(base=base)
    assert caught.value.reason is Reason.BASE_MODEL_UNUSABLE
    assert "blocks, channels and squeezeExcitation" in caught.value.message


def test_a_disk_that_fills_up_does_not_stop_the_training(train, document, monkeypatch, tmp_path):
    document["checkpoint"]["intervalSeconds"] = 1e-9
    (tmp_path / "pod").write_text("a file where the folder should be")
    messages = []
    report = ProgressReporter.train
    monkeypatch.setattr(
        ProgressReporter, "train", lambda self, *a, **k: (messages.append(k["message"]), report(self, *a, **k))
    )
    monkeypatch.setattr(Checkpoints, "latest", lambda self: None)
    trained = train()
    assert trained.metrics["steps"] == 45
    assert any(message and "StorageUnavailable" in message for message in messages)


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_each_pass_shows_every_example_once_in_a_new_order():
    order = BatchOrder(100, 10, seed=3, mirror=True, device=CPU)
    passes = [torch.cat([order.at(number * 10 + step)[0] for step in range(10)]) for number in range(2)]
    for rows in passes:
        assert sorted(rows.tolist()) == list(range(100))
    assert passes[0].tolist() != passes[1].tolist()
    again = BatchOrder(100, 10, seed=3, mirror=True, device=CPU)
    assert again.at(13)[0].tolist() == passes[1][30:40].tolist()
    assert again.at(13)[1].tolist() == order.at(13)[1].tolist()
    assert BatchOrder(100, 10, seed=3, mirror=False, device=CPU).at(0)[1] is None


def test_mirrored_examples_are_the_mirrored_position(labelled):
    some = labelled.take(slice(0, 20))
    mirrored = torch.arange(20) % 2 == 0
    batch = to_examples(some, CPU).batch(slice(0, 20), mirrored)
    flipped = connect4.encode(connect4.mirror(some.positions))
    for row in range(20):
        board, optimal = (
            (flipped[row], some.optimal[row, ::-1]) if row % 2 == 0 else (some.boards[row], some.optimal[row])
        )
        assert np.array_equal(batch.boards[row].numpy(), board)
        assert np.array_equal(batch.optimal[row].numpy(), optimal)
    assert torch.equal(batch.value, torch.from_numpy(some.value).float())


@pytest.mark.parametrize("steps", [1, 2, 20, 1000])
def test_the_rate_rises_then_falls_to_nothing(steps):
    config = SupervisedConfig(learning_rate=0.01, warmup_fraction=0.1)
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.01)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates) >= 0


class Fixed(torch.nn.Module):
    """Answers what it is told."""

    def __init__(self, policy, value):
        super().__init__()
        self.answer = torch.as_tensor(policy, dtype=torch.float32), torch.as_tensor(value, dtype=torch.float32)[:, None]

    def forward(self, _):
        return self.answer


def test_a_perfect_network_scores_everything_and_a_contrary_one_nothing(labelled):
    some = labelled.take(np.flatnonzero((labelled.optimal != labelled.legal).any(axis=1))[:300])
    examples = to_examples(some, CPU)
    good = evaluate(Fixed(np.where(some.optimal, 9.0, 0.0) - 20.0 * ~some.legal, some.value), examples)
    bad = evaluate(Fixed(np.where(some.optimal, -9.0, 0.0), -some.value.astype(float) + (some.value == 0)), examples)
    assert (good["moveAccuracy"], good["valueAccuracy"], bad["moveAccuracy"], bad["valueAccuracy"]) == (1, 1, 0, 0)
    assert good["randomMoveAccuracy"] == pytest.approx(some.random_move_accuracy)
    assert good["valueLoss"] == 0
    assert good["policyLoss"] < bad["policyLoss"]


def test_an_illegal_move_is_never_chosen(labelled):
    full = np.array([connect4.from_moves([0, 0, 0, 0, 0, 0, 1, 2, 1, 2, 4])])
    labels = connect4.label(connect4.canonical(full), connect4.load_book())
    policy = np.where(labels.legal, 0.0, 100.0) + labels.optimal
    assert evaluate(Fixed(policy, labels.value), to_examples(labels, CPU))["moveAccuracy"] == 1


def test_label_smoothing_spreads_over_legal_moves(labelled):
    examples = to_examples(labelled.take(slice(0, 50)), CPU)
    logits = torch.where(examples.optimal, 5.0, -5.0)
    assert policy_loss(logits, examples, 0.1) > policy_loss(logits, examples)
    assert torch.isfinite(policy_loss(logits, examples, 0.1))
