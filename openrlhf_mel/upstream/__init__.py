"""The seam to OpenRLHF 0.11.2: the names that MEL substitutes, and the checks that they still are as expected."""
