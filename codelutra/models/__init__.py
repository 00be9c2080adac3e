"""From a model's name or reference to a local directory with a fingerprint: `resolve`.

The models that have a name are in `known.py`; the forms of a reference are in `references.py`.
"""

from codelutra.models.fingerprints import fingerprint
from codelutra.models.known import KNOWN, Known, find
from codelutra.models.made import Model
from codelutra.models.references import check_reference, require_kind
from codelutra.models.resolve import resolve, source_of

__all__ = ["KNOWN", "Known", "Model", "check_reference", "find", "fingerprint", "require_kind", "resolve", "source_of"]
