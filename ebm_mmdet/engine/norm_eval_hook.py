"""Batch normalisation with fixed statistics while fine-tuning."""

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm


@HOOKS.register_module()
class NormEvalHook(Hook):
    """Keep every batch normalisation of the model in eval mode during training.

    Weight and bias are trained as usual; running mean and variance keep their loaded values. Use it
    for small batches, and for weights whose statistics were re-created rather than learned. mmdet
    offers this (`norm_eval`) only for some backbones, and not for necks and heads.
    """

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Reverse `model.train()`, which runs at the start of epochs and after validation."""
        for module in runner.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
