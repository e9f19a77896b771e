import functools
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ebm_mmdet.energy import GaussianMixtureNoise
from lab.regression1d.data import load_dataset
from lab.regression1d.evaluation import (
    evaluation_grid,
    kl_to_truth,
    negative_log_likelihood,
)
from lab.regression1d.methods import (
    PAPER_METHODS,
    PROPOSAL_METHODS,
    CommonNoise,
    build_trainee,
    method_config,
)
from lab.regression1d.study import read_config
from lab.regression1d.training import Interrupted, Settings, load_checkpoint, train

CONFIGS = Path(__file__).parents[3] / "configs" / "regression1d"


def few(dataset, n=70):
    return replace(dataset, x=dataset.x[:n], y=dataset.y[:n])


def trained(name, models, settings, dataset=None, num_samples=8, **options):
    dataset = few(load_dataset("1")) if dataset is None else dataset
    config = method_config(name, dataset.name, num_samples)
    trainee = build_trainee(config, dataset, models, settings.seed)
    return trainee, train(trainee, dataset, settings, models=models, **options)


def test_ensemble_equals_models_trained_alone():
    settings = Settings(epochs=2, models=3, seed=4)
    for name in ("ml-is", "kld-is", "nce", "nceplus", "sm", "mdn-2"):
        whole, history = trained(name, [0, 1, 2], settings)
        for index in range(3):
            alone, own = trained(name, [index], settings)
            torch.testing.assert_close(own["loss"][:, 0], history["loss"][:, index])
            for key, value in alone.state_dict().items():
                torch.testing.assert_close(value[0], whole.state_dict()[key][index])


@pytest.mark.parametrize("name", ["dsm", "ml-mcmc-2", "nce-mdn-2", "ml-is-mdn-2"])
def test_ensemble_equals_models_trained_alone_given_the_same_noise(name, monkeypatch):
    """These draw for every model; given one model's draws for all, none depends on another."""
    models = 1

    def common(draw):
        def drawn(shape, **options):
            if options.get("generator") is None or shape[0] % models:
                return draw(shape, **options)
            rows = draw((shape[0] // models, *shape[1:]), **options)
            return rows.repeat(models, *[1] * (len(shape) - 1))

        return drawn

    settings = Settings(epochs=2, models=2, seed=4)
    built = [
        build_trainee(method_config(name, "1", 32), few(load_dataset("1")), m, 4)
        for m in ([0, 1], [0], [1])
    ]
    monkeypatch.setattr(torch, "randn", common(torch.randn))
    monkeypatch.setattr(torch, "rand", common(torch.rand))
    histories = []
    for trainee, indices in zip(built, ([0, 1], [0], [1])):
        models = len(indices)
        histories.append(train(trainee, few(load_dataset("1")), settings, models=indices))
    for index in range(2):
        alone, own = built[1 + index], histories[1 + index]["loss"]
        torch.testing.assert_close(own[:, 0], histories[0]["loss"][:, index])
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(value[0], built[0].state_dict()[key][index])


def test_noise_is_common_to_the_models_and_differs_between_targets():
    noise = CommonNoise(GaussianMixtureNoise([0.1, 0.8], 1), 3).scaled(0.5)
    offsets, log_q = noise.sample(12, 5, torch.Generator().manual_seed(0))
    by_model = offsets.view(3, 4, 5)
    assert torch.equal(by_model[0], by_model[1])
    assert torch.equal(by_model[0], by_model[2])
    assert len(by_model[0].unique()) == 20
    expected = GaussianMixtureNoise([0.05, 0.4], 1).log_prob(offsets)
    torch.testing.assert_close(log_q, expected)


@pytest.mark.parametrize("flag", ["shared", "antithetic"])
def test_noise_of_all_models_is_known_for_what_it_is(flag):
    noise = CommonNoise(GaussianMixtureNoise([0.1], 1, **{flag: True}), 2)
    flags = {name: getattr(noise, name) for name in ("shared", "antithetic")}
    assert flags == {"shared": False, "antithetic": False, flag: True}


def test_antithetic_noise_is_refused_where_it_gives_the_target_away():
    config = method_config("nce", "1", 8)
    config["objective"]["exchangeable"] = True
    config["objective"]["noise"]["antithetic"] = True
    with pytest.raises(ValueError, match="needs independent noise"):
        build_trainee(config, load_dataset("1"), [0], 0)


def test_models_shuffle_for_themselves():
    settings = Settings(epochs=1, models=2)
    whole, _ = trained("nce", [0, 1], settings)
    # The same initial weights, and other permutations: they differ after one epoch.
    same_start = build_trainee(method_config("nce", "1", 8), load_dataset("1"), [0, 0], 0)
    train(same_start, few(load_dataset("1")), settings, models=[0, 1])
    weights = same_start.energy.out_weight
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], whole.energy.out_weight[0])


def test_training_loss_is_that_of_every_model():
    dataset = few(load_dataset("1"), 64)
    settings = Settings(epochs=1, models=2, learning_rate=0.0)
    trainee, history = trained("mdn-2", [0, 1], settings, dataset)
    log_q = trainee.density.log_density_fn(dataset.x.expand(2, -1))(
        dataset.y.expand(2, -1).reshape(-1, 1, 1)
    )
    torch.testing.assert_close(history["loss"], -log_q.detach().view(2, -1).mean(1)[None])


@pytest.mark.parametrize("name", ["nceplus", "ml-mcmc-2", "nce-mdn-2"])
def test_resumed_run_gives_the_same_numbers(tmp_path, name):
    settings, path = Settings(epochs=4, models=2), tmp_path / "checkpoint.pth"
    grid = evaluation_grid(load_dataset("1"), 4, 64)
    straight, expected = trained(name, [0, 1], settings, curve_grid=grid)
    trained(name, [0, 1], replace(settings, epochs=2), checkpoint=path, curve_grid=grid)
    resumed, found = trained(name, [0, 1], settings, checkpoint=path, curve_grid=grid)
    assert torch.equal(found["loss"], expected["loss"])
    assert torch.equal(found["kl"], expected["kl"])
    for key, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value)


def test_a_checkpoint_that_cannot_be_read_is_not_absent(tmp_path):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"checkpoint\.pth cannot be read .*It is kept"):
        load_checkpoint(path, None)
    assert path.read_bytes() == b"PK\x03\x04"


def test_stops_when_asked_and_goes_on(tmp_path):
    settings, path, stop = (
        Settings(epochs=3, models=2),
        tmp_path / "checkpoint.pth",
        threading.Event(),
    )
    _, expected = trained("nce", [0, 1], settings)

    def after_two(epoch):
        if epoch == 2:
            stop.set()

    with pytest.raises(Interrupted):
        trained(
            "nce", [0, 1], settings, checkpoint=path, stop=stop, on_epoch=after_two, save_every=1
        )
    epochs = []
    _, found = trained("nce", [0, 1], settings, checkpoint=path, on_epoch=epochs.append)
    assert epochs == [2, 3]
    assert torch.equal(found["loss"], expected["loss"])


@pytest.mark.parametrize("name", [*PAPER_METHODS, "nce-mdn-4", "ml-is-mdn-2", "mdn-2"])
def test_a_failed_model_does_not_touch_the_others(name):
    dataset, settings = few(load_dataset("1")), Settings(epochs=2, models=3)
    config = method_config(name, "1", 32)
    finals = []
    for poison in (False, True):
        trainee = build_trainee(config, dataset, range(3), 0)
        if poison:
            with torch.no_grad():
                next(trainee.parameters())[1] = torch.nan
        history = train(trainee, dataset, settings)
        finals.append([*trainee.parameters(), history["loss"].T])
    for a, b in zip(*finals):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
        assert a.isfinite().all()
    assert kl_to_truth(trainee.density, evaluation_grid(dataset, 4, 64)).isnan().tolist() == [
        False,
        True,
        False,
    ]


# Mean of three models after six epochs; 1.5 times what was measured once, 0.35 at most for the
# four methods that are to reach it.
LIMITS = {
    "ml-is": 0.33,
    "kld-is": 0.35,
    "nce": 0.31,
    "nceplus": 0.34,
    "dsm": 0.70,
    "sm": 0.87,
    "ml-mcmc-4": 1.03,
}


@functools.cache
def learned(name):
    """D_KL on data set 1, mean of three models."""
    # Five times the published rate of learning, for an untrained network (about 2.1) to get there.
    dataset, settings = load_dataset("1"), Settings(epochs=6, models=3, learning_rate=5e-3)
    trainee, _ = trained(name, range(3), settings, dataset, num_samples=128)
    return float(kl_to_truth(trainee.density, evaluation_grid(dataset, 128, 1024)).mean())


@pytest.mark.parametrize("name", LIMITS)
def test_every_method_learns(name):
    assert learned(name) < LIMITS[name]


def test_nceplus_is_not_behind_nce():
    assert learned("nceplus") <= learned("nce") + 0.05


def test_learned_proposal_beats_a_single_gaussian():
    dataset = load_dataset("umal")
    settings = Settings(epochs=10, models=2, learning_rate=1e-2)
    part = replace(dataset, test_x=dataset.test_x[::10], test_y=dataset.test_y[::10])
    oracle = -dataset.true_log_density(part.test_x.double(), part.test_y.double()).mean()
    nll = {}
    for name in ("nce-mdn-4", "mdn-1"):
        trainee, _ = trained(name, range(2), settings, dataset, num_samples=256)
        nll[name] = negative_log_likelihood(trainee.density, part)
    assert nll["nce-mdn-4"].isfinite().all()
    assert nll["nce-mdn-4"].min() > oracle - 0.05
    assert nll["nce-mdn-4"].max() < nll["mdn-1"].min()


@pytest.mark.parametrize(
    ("file", "method"),
    [
        ("ml_is", "ml-is"),
        ("kld_is", "kld-is"),
        ("nce", "nce"),
        ("nceplus", "nceplus"),
        ("sm", "sm"),
        ("dsm", "dsm"),
        ("ml_mcmc_16", "ml-mcmc-16"),
        ("nce_mdn_1", "nce-mdn-1"),
        ("nce_mdn_4", "nce-mdn-4"),
        ("nce_mdn_16", "nce-mdn-16"),
        ("ml_is_mdn_4", "ml-is-mdn-4"),
        ("mdn_1", "mdn-1"),
        ("mdn_4", "mdn-4"),
        ("mdn_16", "mdn-16"),
        ("mdn_teacher_4", "mdn-teacher-4"),
    ],
)
@pytest.mark.parametrize("dataset", ["1", "2", "umal"])
def test_configs_are_the_methods(file, method, dataset):
    expected = method_config(method, dataset, 1024)
    if "mixture" in expected:
        assert build_trainee(
            read_config(CONFIGS / f"{file}.yaml", dataset), load_dataset(dataset), [0], 0
        )
    assert read_config(CONFIGS / f"{file}.yaml", dataset) == expected


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_trains(file):
    dataset = few(load_dataset("2"), 8)
    config = read_config(file, "2")
    trainee = build_trainee(config, dataset, range(2), 0)
    history = train(trainee, dataset, Settings(epochs=1, models=2))
    assert history["loss"].isfinite().all()


@pytest.mark.parametrize("file", ["nce_exchangeable", "kld_is_normalized"])
def test_configs_that_are_no_method_have_its_noise(file):
    method = {"nce_exchangeable": "nce", "kld_is_normalized": "kld-is"}[file]
    for dataset in ("1", "2", "umal"):
        noise = method_config(method, dataset, 1024)["objective"]["noise"]
        assert read_config(CONFIGS / f"{file}.yaml", dataset)["objective"]["noise"] == noise


def test_there_is_a_config_for_every_method():
    names = {path.stem.replace("_", "-") for path in CONFIGS.glob("*.yaml")}
    assert names >= {*PAPER_METHODS, *PROPOSAL_METHODS}


def test_unknown_names():
    with pytest.raises(ValueError, match="method 'nce-mdn' is unknown"):
        method_config("nce-mdn", "1", 8)
    with pytest.raises(ValueError, match="objective type 'Nothing' is unknown"):
        build_trainee({"objective": {"type": "Nothing"}}, load_dataset("1"), [0], 0)
    wrong = {"type": "NCEObjective", "noise": {"type": "Cauchy"}}
    with pytest.raises(ValueError, match="Cauchy"):
        build_trainee({"objective": wrong}, load_dataset("1"), [0], 0)
    old = {"type": "ProposalObjective", "num_samples": 257}
    with pytest.raises(ValueError, match="counted the target too; give num_noise=256"):
        build_trainee({"objective": old}, load_dataset("1"), [0], 0)
