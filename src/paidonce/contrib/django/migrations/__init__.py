"""One for each revision of paidonce's own tables. There are no models: `schema.UpgradeTo` runs the revision itself."""
