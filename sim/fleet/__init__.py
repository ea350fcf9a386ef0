"""The bill of a whole fleet: a model of a site, fitted against runs of the real code, drawn a million times."""
