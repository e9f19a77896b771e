"""Batch normalisation with fixed statistics while fine-tuning."""

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm


@HOOKS.register_module()
class NormEvalHook(Hook):
    """Keep every batch normalisation of the model in eval mode during training.

    Weight and bias are trained as usual; running mean and variance stay as they were loaded. For
    small batches, and for weights whose statistics were re-created rather than learned. mmdet
    offers this (`norm_eval`) for some backbones only, never for necks and heads.
    """

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Undo what `model.train()` did at the start of the epoch and after validation."""
        for module in runner.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
