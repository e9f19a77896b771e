"""Energy-based refinement of bounding boxes for mmdet detectors.

Importing this package registers its parts with mmdet, which is what
``custom_imports = dict(imports=['ebm_mmdet'])`` in a config does. Every registered part is also an
attribute, such as ``ebm_mmdet.EBMDetector``, which a config may use as its type.

The mathematics in :mod:`ebm_mmdet.energy` needs only torch. If the OpenMMLab packages are not
installed, nothing is registered, and every name below raises an ImportError that names what to
install. If they are installed but cannot be imported, this package cannot be imported either,
except for the diagnosis, ``python -m ebm_mmdet``.
"""

import typing as _typing  # mypy knows TYPE_CHECKING by this name only

from .requirements import diagnosis_is_asked_for as _diagnosis_is_asked_for
from .requirements import explain_missing_names as _explain_missing_names
from .requirements import missing_packages as _missing_packages
from .version import __version__

__all__ = [
    "AtomicLocalBackend",
    "AuxiliaryTargets",
    "ChannelsLastHook",
    "CropCountDataset",
    "DSMObjective",
    "DeltaXYXYBBoxCoder",
    "DepthMetric",
    "DepthTask",
    "DirectRegressionHead",
    "EBMBBoxHead",
    "EBMDetector",
    "EBMRegressionHead",
    "EBMTTAModel",
    "EnergyGuidedNMS",
    "FitTargetCodecHook",
    "FractionSSDAnchorGenerator",
    "FreezeBackboneHook",
    "GaussianMixtureNoise",
    "GeneratedRegressionDataset",
    "GradientAscentRefiner",
    "HighIoUCocoMetric",
    "ImageRegressor",
    "ImportanceMeanRefiner",
    "InclusiveRoIExtractor",
    "KLBBoxHead",
    "KLDISObjective",
    "KLLoss",
    "KLRetinaHead",
    "LoadAuxiliaryMaps",
    "LoadRegressionImage",
    "MCMCObjective",
    "MLISObjective",
    "MixtureRegressionHead",
    "MultiTaskVisualizer",
    "NCEObjective",
    "NYUv2Dataset",
    "NormEvalHook",
    "NormalsMetric",
    "NormalsTask",
    "PackMultiTaskInputs",
    "PackRegressionInputs",
    "PoolNeck",
    "ProbabilisticBoxMetric",
    "ProbabilisticRegressionMetric",
    "ProposalEBMBBoxHead",
    "ProposalObjective",
    "ProposalRefiner",
    "ProposalWarmUpHook",
    "ROCKBlock",
    "ROCKColorJitter",
    "ROCKDetector",
    "ROCKRandomCrop",
    "ROCKSSDHead",
    "RandomFlipTarget",
    "RandomFlipWithMaps",
    "RandomLight",
    "RandomQuarterTurns",
    "RandomScaleCrop",
    "ReadableCheckpointHook",
    "RegressionArrayDataset",
    "RegressionDataSample",
    "RegressionDataset",
    "RegressionMetric",
    "RegressionVisualizationHook",
    "RegressionVisualizer",
    "ResizeWithMaps",
    "RoomScenesDataset",
    "SSDLevels",
    "SceneAccuracy",
    "SceneTask",
    "ScoreMatchingObjective",
    "ShapesDataset",
    "SoftmaxRegressionHead",
    "TargetCodec",
    "TeacherOptimWrapperConstructor",
    "TeacherRegressor",
    "TimmBackbone",
    "TorchvisionDilatedResNet",
    "UncertaintyVisualizer",
    "__version__",
]

if _typing.TYPE_CHECKING or not _missing_packages():
    try:
        from . import registry as _registry  # noqa: F401  (makes `ebm_mmdet::` a scope)
        from .datasets import (
            AuxiliaryTargets,
            LoadAuxiliaryMaps,
            NYUv2Dataset,
            PackMultiTaskInputs,
            RandomFlipWithMaps,
            ResizeWithMaps,
            ROCKColorJitter,
            ROCKRandomCrop,
            RoomScenesDataset,
            ShapesDataset,
        )
        from .energy import (
            DSMObjective,
            GaussianMixtureNoise,
            KLDISObjective,
            MCMCObjective,
            MLISObjective,
            NCEObjective,
            ProposalObjective,
            ScoreMatchingObjective,
        )
        from .engine import (
            AtomicLocalBackend,
            ChannelsLastHook,
            NormEvalHook,
            ReadableCheckpointHook,
        )
        from .evaluation import (
            DepthMetric,
            HighIoUCocoMetric,
            NormalsMetric,
            ProbabilisticBoxMetric,
            SceneAccuracy,
        )
        from .models import (
            DeltaXYXYBBoxCoder,
            DepthTask,
            EBMBBoxHead,
            EBMDetector,
            EBMTTAModel,
            EnergyGuidedNMS,
            FractionSSDAnchorGenerator,
            GradientAscentRefiner,
            ImportanceMeanRefiner,
            InclusiveRoIExtractor,
            KLBBoxHead,
            KLLoss,
            KLRetinaHead,
            NormalsTask,
            ProposalEBMBBoxHead,
            ProposalRefiner,
            ROCKBlock,
            ROCKDetector,
            ROCKSSDHead,
            SceneTask,
            SSDLevels,
            TorchvisionDilatedResNet,
        )
        from .regression import (
            CropCountDataset,
            DirectRegressionHead,
            EBMRegressionHead,
            FitTargetCodecHook,
            FreezeBackboneHook,
            GeneratedRegressionDataset,
            ImageRegressor,
            LoadRegressionImage,
            MixtureRegressionHead,
            PackRegressionInputs,
            PoolNeck,
            ProbabilisticRegressionMetric,
            ProposalWarmUpHook,
            RandomFlipTarget,
            RandomLight,
            RandomQuarterTurns,
            RandomScaleCrop,
            RegressionArrayDataset,
            RegressionDataSample,
            RegressionDataset,
            RegressionMetric,
            RegressionVisualizationHook,
            RegressionVisualizer,
            SoftmaxRegressionHead,
            TargetCodec,
            TeacherOptimWrapperConstructor,
            TeacherRegressor,
            TimmBackbone,
        )
        from .visualization import (
            MultiTaskVisualizer,
            UncertaintyVisualizer,
        )
    except Exception as error:  # a broken package of the stack may raise any error
        if not _diagnosis_is_asked_for():
            raise ImportError(
                "ebm_mmdet does not import, because a package that it needs is broken: "
                f"{type(error).__name__}: {error}. `python -m ebm_mmdet` names the remedy.",
                name=__name__,
            ) from error
else:
    __getattr__ = _explain_missing_names(__name__, __all__)
