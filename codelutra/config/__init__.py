"""The config of a run: one frozen section a stage. Read from YAML, written back as YAML with every default filled in.

Unknown keys are refused, bounds are part of the types, and the docstring below each field says what its value trades. A
field's mark says what another value means for a run that exists already; without a mark it would be another run.

    section.py    what every section is, and the marks
    stages.py     suite, prompt, engine, sample, api, execute, cluster, pairs, select
    training.py   train, warm_start
    group.py      grpo
    run.py        the whole: reading, validating, writing
    idle.py       settings that nothing in a run reads
"""

from codelutra.config.group import GrpoSection
from codelutra.config.run import (
    DEFAULT_MODEL,
    PRESETS,
    RUN_NAME,
    RunConfig,
    differing,
    in_key,
    load_config,
    parse_config,
    preset_names,
    settings,
    to_yaml,
)
from codelutra.config.section import ADDED, HOW_FAR, LARGEST, SAME_RESULT, Mark, Section
from codelutra.config.stages import (
    ApiSection,
    ClusterSection,
    EngineSection,
    ExecuteSection,
    PairsSection,
    PromptSection,
    SampleSection,
    SelectSection,
    SuiteSection,
)
from codelutra.config.training import OPEN_RATES, TrainSection, WarmStartSection

__all__ = [
    "ADDED",
    "DEFAULT_MODEL",
    "HOW_FAR",
    "LARGEST",
    "OPEN_RATES",
    "PRESETS",
    "RUN_NAME",
    "SAME_RESULT",
    "ApiSection",
    "ClusterSection",
    "EngineSection",
    "ExecuteSection",
    "GrpoSection",
    "Mark",
    "PairsSection",
    "PromptSection",
    "RunConfig",
    "SampleSection",
    "Section",
    "SelectSection",
    "SuiteSection",
    "TrainSection",
    "WarmStartSection",
    "differing",
    "in_key",
    "load_config",
    "parse_config",
    "preset_names",
    "settings",
    "to_yaml",
]
