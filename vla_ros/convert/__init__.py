# SPDX-License-Identifier: Apache-2.0
"""Writer of the folders that the node loads, from the folders that trainings leave."""
