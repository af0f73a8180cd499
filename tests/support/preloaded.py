"""What forked commands import, loaded once by the process that they are forked from.

What is loaded is kept out of garbage collection, so that a forked command neither looks at it nor copies its
pages.
"""

import gc
from importlib import import_module

MODULES = (
    *("builders.audit.rope", "builders.conversion.convert", "builders.families.common.registry"),
    *("builders.sources.huggingface", "engines.reference.refusing", "engines.runtime_choice"),
    *("engines.transfer.push_and_pull", "scripts.cli.show_plan"),
    *("scripts.commands.making.build", "scripts.commands.making.convert", "scripts.commands.making.engines"),
    *("scripts.commands.serving.deploy", "scripts.commands.serving.render"),
    *("scripts.flows.build", "scripts.flows.convert", "scripts.flows.deploy", "scripts.flows.render"),
    *("scripts.flows.runtime_choice", "triton_repo.deploy.targets", "triton_repo.render.repository"),
)

for name in MODULES:
    import_module(name)
gc.freeze()
