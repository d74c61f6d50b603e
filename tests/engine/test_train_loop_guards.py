"""Around the two steps: their number, domains, loaders, losses that are not finite, half precision, wrong options."""

import pytest
import torch

from fastreid.engine import NonFiniteLossError, train_loop
from fastreid.utils.errors import UserError


class TestIteration:
    def counted(self, tiny, **options):
        trainer = tiny.make_trainer(**options)
        calls = []
        trainer.run_step_meta_learning1 = lambda: calls.append("base") or {}
        trainer.run_step_meta_learning2 = lambda: calls.append("meta") or {}
        return trainer, calls

    def test_the_first_iteration_has_more_base_steps(self, tiny):
        trainer, calls = self.counted(tiny)
        trainer.train(0, 2)
        assert calls == ["base"] * 10 + ["meta"] + ["base", "meta"]

    def test_a_resumed_run_has_no_first_iteration(self, tiny):
        trainer, calls = self.counted(tiny)
        trainer.train(5, 6)
        assert calls == ["base", "meta"]

    def test_loop_counts_are_read(self, tiny):
        trainer, calls = self.counted(
            tiny,
            META__SOLVER__INIT__INNER_LOOP=3,
            META__SOLVER__INIT__FIRST_INNER_LOOP=2,
            META__SOLVER__INIT__OUTER_LOOP=2,
        )
        trainer.train(0, 2)
        assert calls == ["base"] * 2 + ["meta"] * 2 + ["base"] * 3 + ["meta"] * 2

    @pytest.mark.parametrize("options", [{"meta": False}, {"META__DATA__NAMES": ()}])
    def test_without_meta_data_there_are_base_steps_only(self, tiny, options):
        trainer, calls = self.counted(tiny, **options)
        trainer.train(1, 3)
        assert calls == ["base"] * 2

    def test_losses_reach_the_storage(self, tiny):
        trainer = tiny.make_trainer(META__SOLVER__INIT__FIRST_INNER_LOOP=2)
        trainer.train(0, 1)
        assert {name.split("/")[0] for name in trainer.storage.new_means() if "/" in name} == {
            "base",
            "mtrain",
            "mtest",
        }


class TestDomains:
    def test_split_is_a_partition_of_the_domains(self, tiny):
        trainer = tiny.make_trainer(META__DATA__NUM_DOMAINS=5, META__SOLVER__MTRAIN__NUM_DOMAIN=3)
        splits = [trainer.split_domains() for _ in range(20)]
        assert all(sorted(a + b) == list(range(5)) and len(a) == 3 for a, b in splits)
        assert len({frozenset(a) for a, _ in splits}) > 5

    def test_splits_follow_the_seed(self, tiny):
        def draw(seed):
            trainer = tiny.make_trainer(SEED=seed)
            return [trainer.split_domains() for _ in range(10)]

        assert draw(3) == draw(3) != draw(4)

    def test_only_one_domain_is_tested_if_asked(self, tiny):
        trainer = tiny.make_trainer(META__SOLVER__MTEST__ONLY_ONE_DOMAIN=True, META__SOLVER__MTRAIN__NUM_DOMAIN=1)
        for mtrain, mtest in (trainer.split_domains() for _ in range(10)):
            assert len(mtrain) == len(mtest) == 1 and mtrain != mtest

    def test_batch_is_divided_by_domain(self, tiny):
        batch = tiny.make_batch()
        part = train_loop.select_domains(batch, [2, 0])
        kept = [i for i in range(tiny.num_images) if batch["domains"][i] != 1]
        assert part["domains"].tolist() == batch["domains"][kept].tolist()
        assert torch.equal(part["images"], batch["images"][kept])
        assert part["img_paths"] == [f"{i}.jpg" for i in kept]

    def test_a_batch_without_a_domain_is_a_user_error(self, tiny):
        with pytest.raises(UserError, match=r"no image of the domains \[7\].*META.DATA.NAIVE_WAY False"):
            train_loop.select_domains(tiny.make_batch(), [7])

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"META__DATA__NUM_DOMAINS": 1}, "at least two domains, found 1"),
            ({"META__SOLVER__MTRAIN__NUM_DOMAIN": 3}, "must be from 1 to 2, .* found 3"),
            ({"META__SOLVER__MTRAIN__NUM_DOMAIN": 0}, "must be from 1 to 2, .* found 0"),
            ({"MODEL__NORM__TYPE_BACKBONE": "BN"}, "no gates .*BIN_gate2.*found BN"),
            ({"META__MODEL__META_COMPUTE_LAYER": ("gates",)}, "META_COMPUTE_LAYER: .*found 'gates'"),
            ({"META__LOSS__MTEST_NAME": ("Triplet",)}, "META.LOSS.MTEST_NAME must name .*found 'Triplet'"),
            ({"META__LOSS__MTRAIN_NAME": ()}, "META.LOSS.MTRAIN_NAME must name .*found none"),
            ({"MODEL__LOSSES__NAME": ("CE",)}, "MODEL.LOSSES.NAME must name .*found 'CE'"),
        ],
    )
    def test_options_that_do_not_fit_are_one_clear_line(self, tiny, options, message):
        with pytest.raises(UserError, match=message) as error:
            tiny.make_trainer(**options)
        assert "\n" not in str(error.value)


class TestLoaders:
    def test_a_loader_that_ends_starts_again(self):
        class Loader:
            started = 0

            def __iter__(self):
                self.started += 1
                yield from ("a", "b")

        loader = Loader()
        source = train_loop.batches(loader)
        assert [next(source) for _ in range(5)] == ["a", "b", "a", "b", "a"] and loader.started == 3

    def test_an_empty_loader_is_a_user_error(self):
        with pytest.raises(UserError, match="gave no batch"):
            next(train_loop.batches([]))

    def test_base_and_meta_loader_are_independent(self, tiny):
        trainer = tiny.make_trainer()
        for _ in range(3):
            trainer.run_step_meta_learning1()
        trainer.run_step_meta_learning2()


class TestNonFiniteLoss:
    @pytest.mark.parametrize(
        "step, names", [(1, ["base/loss_cls = nan"]), (2, ["mtrain/loss_stc = nan", "mtest/loss_triplet_mtest = nan"])]
    )
    def test_names_the_iteration_the_losses_and_the_images(self, tiny, step, names):
        trainer, before = self.poisoned(tiny)
        with pytest.raises(NonFiniteLossError) as error:
            getattr(trainer, f"run_step_meta_learning{step}")()
        message = str(error.value)
        assert "iteration 41: not finite" in message
        assert all(name in message for name in names)
        assert all(f"\n  {i}.jpg" in message for i in range(tiny.num_images))
        parameters = {name for name, _ in trainer.model.named_parameters()}
        assert not tiny.changed(trainer, before) & parameters

    def poisoned(self, tiny, check=True):
        trainer = tiny.make_trainer(SOLVER__CHECK_FINITE=check)
        batch = tiny.make_batch()
        batch["images"][:] = float("nan")
        trainer.base_batches, trainer.meta_batches = (train_loop.batches([batch]) for _ in range(2))
        trainer.iter = 41
        return trainer, tiny.snapshot(trainer)

    def test_is_a_user_error_that_ends_the_run(self, tiny):
        trainer, _ = self.poisoned(tiny)
        with pytest.raises(UserError):
            trainer.train(41, 43)
        assert trainer.iter == 41

    def test_losses_are_looked_at_later_unless_asked_for(self, tiny):
        trainer, _ = self.poisoned(tiny, check=False)
        good = train_loop.batches([tiny.make_batch()])
        trainer.base_batches, bad = good, trainer.base_batches
        trainer.run_step_meta_learning1()
        trainer.iter, trainer.base_batches = 42, bad
        trainer.run_step_meta_learning1()
        assert not trainer.storage.new_means()
        with pytest.raises(NonFiniteLossError, match="iteration 42: not finite: base/loss_cls = nan") as error:
            trainer.read_losses()
        assert error.value.iteration == 42
        assert trainer.storage.new_means().keys() == {"base/loss_cls", "base/loss_triplet"}  # of iteration 41

    def test_no_run_ends_before_its_losses_were_looked_at(self, tiny):
        trainer, _ = self.poisoned(tiny, check=False)
        with pytest.raises(NonFiniteLossError, match="iteration 41"):
            trainer.train(41, 43)


class TestMixedPrecision:
    def dtypes(self, tiny, **options):
        """Run one iteration and return the types of the first convolution's outputs."""
        trainer = tiny.make_trainer(
            dtype=torch.float32, META__SOLVER__INIT__FIRST_INNER_LOOP=1, SOLVER__AMP=True, **options
        )
        seen = []
        trainer.model.backbone[0].register_forward_hook(lambda module, args, out: seen.append(out.dtype))
        before = tiny.snapshot(trainer)
        trainer.run_step()
        assert all(
            t.dtype == before[name].dtype and t.isfinite().all() for name, t in trainer.model.state_dict().items()
        )
        assert tiny.changed(trainer, before) == before.keys() - {"heads.classifier_norm.bias"}
        return seen

    def test_runs_in_bfloat16_on_a_cpu_only_if_that_is_asked_for(self, tiny, caplog):
        caplog.set_level("INFO", "fastreid")
        assert self.dtypes(tiny, SOLVER__AMP_ON_CPU=True) == [torch.bfloat16] * 3
        assert "SOLVER.AMP" not in caplog.text
        assert self.dtypes(tiny) == self.dtypes(tiny, MODEL__DEVICE="cuda") == [torch.float32] * 3
        assert caplog.text.count("SOLVER.AMP: float32 on the CPU") == 2

    def test_runs_second_order_in_bfloat16(self, tiny):
        options = {"META__SOLVER__MTRAIN__SECOND_ORDER": True, "META__SOLVER__STOP_GRADIENT": False}
        assert self.dtypes(tiny, SOLVER__AMP_ON_CPU=True, **options) == [torch.bfloat16] * 3

    @pytest.mark.parametrize("early", [True, False])
    def test_loss_scaling_changes_no_update_and_early_scale_keeps_it_off_the_inner_loss(self, tiny, early, monkeypatch):
        plain, scaled = tiny.prepare_meta(), tiny.prepare_meta(META__SOLVER__EARLY_SCALE=early)
        scaled.model.load_state_dict(plain.model.state_dict())
        scaled.meta_batches = train_loop.batches([plain.meta_batch])
        scaled.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        inner_losses, real_grad = [], torch.autograd.grad

        def grad(loss, *arguments, **options):
            if isinstance(loss, torch.Tensor):  # else of a normalization's coefficients
                inner_losses.append(loss.item())
            return real_grad(loss, *arguments, **options)

        monkeypatch.setattr(torch.autograd, "grad", grad)
        plain.run_step_meta_learning2(), scaled.run_step_meta_learning2()
        assert inner_losses[1] == pytest.approx(inner_losses[0] * (1 if early else 1024))
        gates = [{name: gate.detach() for name, gate in t.gates.items()} for t in (plain, scaled)]
        torch.testing.assert_close(*gates, rtol=1e-10, atol=1e-12)
        assert scaled.scaler.get_scale() == 1024
