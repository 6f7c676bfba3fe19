package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/cofferproject/coffer/api/simhw"
	host "github.com/cofferproject/coffer/host/simhw"
	"github.com/cofferproject/coffer/tee/nitro/sim"
)

func powerNitro(c *host.Config, in *host.Inputs) (*host.Model, error) {
	key, root, err := host.Root(c.CADir, "nitro", func() (*ecdsa.PrivateKey, *x509.Certificate, error) { return sim.NewRoot(time.Now()) })
	if err != nil {
		return nil, err
	}
	e, err := sim.Launch(key, root, &sim.Inputs{Kernel: in.Kernel, Initrd: in.Initrd, Cmdline: in.Cmdline}, time.Now)
	if err != nil {
		return nil, err
	}
	m := &host.Model{
		Hardware: nitro{e}, Provider: "nsm", Root: root.Raw, Digests: map[string]string{},
		Notes: []string{"memory and vCPUs are in no register, initdata is what the guest extends"},
	}
	for i, v := range e.PCRs() {
		if i <= 2 { // the image's; initdata's is the guest's to extend
			m.Digests[fmt.Sprintf("pcr%d", i)] = hex.EncodeToString(v)
		}
	}
	return m, nil
}

// nitro is an enclave's security module.
type nitro struct{ *sim.Enclave }

// Handle implements host.Hardware.
func (n nitro) Handle(ctx context.Context, op simhw.Op, _ byte, p []byte) ([]byte, error) {
	if op != simhw.OpNSM {
		return nil, host.ErrUnsupported
	}
	return n.NSM(ctx, p)
}
