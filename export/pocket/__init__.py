"""The pocket model: a miniature of V-Express, trained on faces that are drawn here and speech that is synthesised."""
