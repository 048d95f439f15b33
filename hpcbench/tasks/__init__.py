"""What is trained: data sets and models, and how samples get from files to the device of a rank."""
