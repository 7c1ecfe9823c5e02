"""One module per worker role; agents never call each other, they meet on topics."""
