"""Analysis: curves, t-SNE, similarity, audits, tables, figures and the report.

Every command that measures or draws is a function here, on arrays or on stores; docs/api.md lists them.
`mnprobe.analysis.similarity` and `mnprobe.analysis.statistics` work on arrays alone.

Names are imported from their modules on first use; `__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
