"""One module per dataset, under the dataset's name. The command line's help imports them, so they import no torch."""
