"""Why a network answers as it does: explainers, how good their maps are, and maps for training."""
