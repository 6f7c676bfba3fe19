package launch

import (
	"strings"
	"testing"
)

func TestValidateHardware(t *testing.T) {
	good := func(tee TEE) Spec {
		s := Spec{TEE: tee, Kernel: File{Path: "k"}, VCPUs: 1, MemoryMiB: 256}
		if tee.LoadsImage() {
			s.Kernel, s.Image = File{}, File{Path: "i"}
		}
		return s
	}
	for _, tee := range HardwareTEEs {
		if s := good(tee); s.Validate() != nil || tee.Simulated() {
			t.Errorf("%s: %v", tee, s.Validate())
		}
	}
	block, auth := make([]byte, 96), make([]byte, 4096)
	for want, c := range map[string]struct {
		tee    TEE
		change func(*Spec)
	}{
		"both or none":        {SNP, func(s *Spec) { s.SNP = &SNPParams{IDBlock: block} }},
		"id_block: sev takes": {SEV, func(s *Spec) { s.SNP = &SNPParams{IDBlock: block, IDAuth: auth} }},
		"id_block of 95":      {SNP, func(s *Spec) { s.SNP = &SNPParams{IDBlock: block[1:], IDAuth: auth} }},
		"all or none": {SEV, func(s *Spec) {
			s.SNP = &SNPParams{Session: make([]byte, SEVSessionSize), DHCert: make([]byte, SEVDHCertSize)}
		}},
		"secret_service: all": {SEV, func(s *Spec) { s.SNP = &SNPParams{SecretService: "https://owner.example"} }},
		"no launch secret":    {SNP, func(s *Spec) { s.SNP = &SNPParams{Session: []byte("s"), DHCert: []byte("c")} }},
		"not 2084 and 128": {SEVES, func(s *Spec) {
			s.SNP = &SNPParams{Session: make([]byte, 1<<17), DHCert: []byte("c"), SecretService: "https://o"}
		}},
		"no URL of HTTP": {SEVES, func(s *Spec) {
			s.SNP = &SNPParams{Session: make([]byte, SEVSessionSize), DHCert: make([]byte, SEVDHCertSize), SecretService: "file:///etc/passwd"}
		}},
		"sev takes none":     {SEV, func(s *Spec) { s.HostDevices = []string{"0000:65:00.0"} }},
		"tpm-sim takes none": {TPMSim, func(s *Spec) { s.HostDevices = []string{"0000:65:00.0"} }},
		"cca takes none":     {CCA, func(s *Spec) { s.HostDevices = []string{"0000:65:00.0"} }},
		"comes twice":        {SNP, func(s *Spec) { s.HostDevices = []string{"0000:65:00.0", "0000:65:00.0"} }},
		"no PCI address":     {TDX, func(s *Spec) { s.HostDevices = []string{"0000:65:00.0,x-vga=on"} }},
		"9, at most 8":       {TDX, func(s *Spec) { s.HostDevices = make([]string, 9) }},
	} {
		s := good(c.tee)
		c.change(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
