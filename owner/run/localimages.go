package run

import "context"

// localRegistry serves images from disk to the guest.
type localRegistry struct{ close func() }

// serveLocal is completed below once owner/image offers its sources.
func serveLocal(_ context.Context, _ *sources) (*localRegistry, error) {
	return &localRegistry{close: func() {}}, nil
}
