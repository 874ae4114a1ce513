"""One file per family of components: how it is built, its peers, its entry."""
