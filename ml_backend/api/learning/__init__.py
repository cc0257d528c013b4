"""What a project learned, over HTTP and as a page."""
