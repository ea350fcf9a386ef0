"""Bundles: updates that travel by stick. Exporting, looking at and importing them, for `slipstream bundle`.

Composition, as `p2p.agent` is: what belongs into a bundle and what a device may believe of it is decided by
`p2p.trust`, files are `p2p.adapters`. It needs no agent that runs, nor anything that only a server has.
"""
