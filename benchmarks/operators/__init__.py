"""One file per operator: its inputs, its peers, its work, its entry."""
