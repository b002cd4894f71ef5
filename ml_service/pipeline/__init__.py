"""What happens next: stages from files to files, and the decisions between them."""
