package verifier

// manifest is a reference manifest that was read and verified once.
type manifest struct{}

func (d *device) checkManifests() error { return nil }
