"""The bill of a whole fleet: a model of one site, fitted to runs of the real code, for all sites at once.

What of it is what: `packs` the release as sizes; `draw` the sites and devices out of a seed; `curve` how
much a WAN carries by when; `queue` and `origin` who shares it; `model` one way to spread an image;
`plans` when and within which budget; `parameters` and `fit` the fitted constants and their errors;
`bill` all ways under all plans, which is an `outcome`.
"""
