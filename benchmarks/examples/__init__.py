"""Small programs that train with fastdet's parts."""
