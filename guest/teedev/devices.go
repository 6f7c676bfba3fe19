package teedev

import (
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/nvidia"
	nvidiaattester "github.com/cofferproject/coffer/tee/nvidia/attester"
)

// Devices opens the kinds of devices beside the CPU that a guest can attest, by
// wire name; attest.ErrNotPresent: the kernel sees none. Initdata says which of
// them must be attested.
var Devices = map[string]func() (attest.Attester, error){
	nvidia.WireName: func() (attest.Attester, error) { return opened(nvidiaattester.Open()) },
}
