"""Writer of the folders that the node loads, from the folders that trainings leave."""
