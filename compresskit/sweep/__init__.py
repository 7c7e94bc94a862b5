"""Many runs side by side: a study says which, `runner` does them, `results` compares them, `charts` draws them."""
