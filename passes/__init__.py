"""Passes: a module in, a new module and a report out (`base` holds the contract).

Five rooms, in the order in which a model meets them: `graph` brings float Relax to one form,
`prune` removes weights and channels, `quantize` decides what gets a narrower type and writes it
into the graph, `lower` turns Relax calls into loop nests, `loops` finishes loop nests after their
schedule. Every pass is one file named as the pass; `registry.PASSES` lists them.
"""
