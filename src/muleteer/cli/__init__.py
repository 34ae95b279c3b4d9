"""The command line: the composition root. One file per verb; a verb is imported only when it is called."""
