"""Share program files: the Hugging Face hub, folders, and model cards."""
