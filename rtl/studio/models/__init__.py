"""Models: `versions` lists and changes the registry, `comparing` and `trying` put models to work,
`endpoint` asks one that serves them."""
