package snp

import (
	"errors"
	"fmt"
)

// TCB is a TCB_VERSION: the security patch levels of one chip. Its bytes are laid
// out in two ways; WithFMC tells the newer one (Turin).
type TCB struct {
	WithFMC    bool
	FMC        uint8
	Bootloader uint8
	TEE        uint8
	SNP        uint8
	Microcode  uint8
}

// ParseTCB reads the eight bytes of a TCB_VERSION. Reserved bytes must be zero:
// the published evidence does not carry them.
func ParseTCB(b [8]byte, withFMC bool) (TCB, error) {
	if withFMC {
		if b[4]|b[5]|b[6] != 0 {
			return TCB{}, errors.New("TCB version: reserved bytes are not zero")
		}
		return TCB{WithFMC: true, FMC: b[0], Bootloader: b[1], TEE: b[2], SNP: b[3], Microcode: b[7]}, nil
	}
	if b[2]|b[3]|b[4]|b[5] != 0 {
		return TCB{}, errors.New("TCB version: reserved bytes are not zero")
	}
	return TCB{Bootloader: b[0], TEE: b[1], SNP: b[6], Microcode: b[7]}, nil
}

// Bytes gives the TCB_VERSION.
func (t TCB) Bytes() [8]byte {
	if t.WithFMC {
		return [8]byte{t.FMC, t.Bootloader, t.TEE, t.SNP, 0, 0, 0, t.Microcode}
	}
	return [8]byte{t.Bootloader, t.TEE, 0, 0, 0, 0, t.SNP, t.Microcode}
}

// AtMost reports whether no component of t is above that of o.
func (t TCB) AtMost(o TCB) bool {
	return t.FMC <= o.FMC && t.Bootloader <= o.Bootloader && t.TEE <= o.TEE && t.SNP <= o.SNP && t.Microcode <= o.Microcode
}

// String names the components as AMD's certificate service does.
func (t TCB) String() string {
	s := ""
	if t.WithFMC {
		s = fmt.Sprintf("fmc %d, ", t.FMC)
	}
	return s + fmt.Sprintf("bootloader %d, tee %d, snp %d, microcode %d", t.Bootloader, t.TEE, t.SNP, t.Microcode)
}
