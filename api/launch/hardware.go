package launch

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"
)

// HardwareTEEs lists the hardware that host/vmm makes command lines for.
var HardwareTEEs = []TEE{SNP, TDX, SE, CCA, SEV, SEVES}

// Hardware reports whether t is one of HardwareTEEs.
func (t TEE) Hardware() bool { return slices.Contains(HardwareTEEs, t) }

// SEVFamily reports whether the launch is measured by AMD's secure processor.
func (t TEE) SEVFamily() bool { return t == SNP || t == SEV || t == SEVES }

// BindSize is the size in bytes of the register in which a launch of t binds the
// digest of initdata; 0: the launch binds none.
func (t TEE) BindSize() int {
	switch t {
	case SNP:
		return 32 // HOST_DATA
	case TDX:
		return 48 // MRCONFIGID
	case CCA:
		return 64 // personalization value
	}
	return 0
}

// TakesHostDevices reports whether a VM of t may be given host devices: only where
// a device can attest to the guest, which demands its evidence by initdata.
func (t TEE) TakesHostDevices() bool { return t == SNP || t == TDX }

// MaxHostDevices bounds Spec.HostDevices.
const MaxHostDevices = 8

// Sizes of SNPParams in bytes.
const (
	idBlockSize = 96
	idAuthSize  = 4096
)

// PolicyOf gives the guest policy that a launch of the SEV family has.
func (s *Spec) PolicyOf() uint64 {
	switch {
	case s.SNP != nil && s.SNP.Policy != 0:
		return s.SNP.Policy
	case s.TEE == SEV:
		return DefaultSEVPolicy
	case s.TEE == SEVES:
		return DefaultSEVESPolicy
	}
	return DefaultSNPPolicy
}

var pciAddressRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`) })

// ValidPCIAddress reports whether s is a PCI address as sysfs writes it.
func ValidPCIAddress(s string) bool { return pciAddressRE().MatchString(s) }

func (s *Spec) validateSEV() error {
	p := s.SNP
	if p == nil {
		return nil
	}
	switch {
	case (len(p.IDBlock) > 0) != (len(p.IDAuth) > 0):
		return errors.New("launch spec: snp: id_block and id_auth: both or none")
	case len(p.IDBlock) > 0 && s.TEE != SNP:
		return fmt.Errorf("launch spec: snp: id_block: %s takes none", s.TEE)
	case len(p.IDBlock) > 0 && (len(p.IDBlock) != idBlockSize || len(p.IDAuth) != idAuthSize):
		return fmt.Errorf("launch spec: snp: id_block of %d bytes and id_auth of %d, not %d and %d", len(p.IDBlock), len(p.IDAuth), idBlockSize, idAuthSize)
	case len(p.DHCert) > 0 && s.TEE != SEV && s.TEE != SEVES:
		return fmt.Errorf("launch spec: snp: dh_cert: %s takes no launch secret", s.TEE)
	}
	return p.checkSEVSecret()
}

func (s *Spec) validateHostDevices() error {
	switch {
	case len(s.HostDevices) == 0:
		return nil
	case !s.TEE.TakesHostDevices():
		return fmt.Errorf("launch spec: host_devices: %s takes none: its guest could not tell a device from a forged one", s.TEE)
	case len(s.HostDevices) > MaxHostDevices:
		return fmt.Errorf("launch spec: host_devices: %d, at most %d", len(s.HostDevices), MaxHostDevices)
	}
	for i, d := range s.HostDevices {
		if !ValidPCIAddress(d) {
			return fmt.Errorf("launch spec: host_devices[%d]: %.40q is no PCI address (0000:65:00.0)", i, d)
		}
		if slices.Contains(s.HostDevices[:i], d) {
			return fmt.Errorf("launch spec: host_devices[%d]: %s comes twice", i, d)
		}
	}
	return nil
}
