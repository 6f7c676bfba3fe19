package measure

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"unicode/utf16"

	"github.com/cofferproject/coffer/api/refvalue"
)

// Observed is what one boot of a firmware showed in its event log.
type Observed struct {
	MemoryMiB, VCPUs int
	CRTMVersion      []byte          // data of EV_S_CRTM_VERSION
	PEI, DXE         refvalue.Digest // the two EV_EFI_PLATFORM_FIRMWARE_BLOB events
}

// Learn gives the entry of the table of profiles, in Go, for a firmware that was
// observed. It fails if the firmware does not measure the way this package
// computes: then the package must be extended, not the table.
func Learn(name string, code []byte, o Observed) (string, error) {
	pei, dxe, err := unpackFirmware(code)
	if err != nil {
		return "", fmt.Errorf("learning firmware: %w", err)
	}
	if refvalue.Digest(sha256.Sum256(dxe.Bytes)) != o.DXE {
		return "", errors.New("learning firmware: the DXE volume is not measured as it lies in the image")
	}
	hob, err := platformHOB(o.MemoryMiB, o.VCPUs)
	if err != nil {
		return "", fmt.Errorf("learning firmware: %w", err)
	}
	at := -1
	// The structure is zero in the image and aligned by the linker.
	for off := 0; off+hobSize <= len(pei.Bytes); off += 16 {
		old := pei.Bytes[off : off+hobSize]
		if len(bytes.Trim(old, "\x00")) != 0 {
			continue
		}
		copy(old, hob)
		found := refvalue.Digest(sha256.Sum256(pei.Bytes)) == o.PEI
		clear(old)
		if found {
			at = off
			break
		}
	}
	if at < 0 {
		return "", errors.New("learning firmware: the measured PEI volume is not the image's with the known platform structure in it")
	}
	if len(o.CRTMVersion) < 2 || len(o.CRTMVersion)%2 != 0 {
		return "", errors.New("learning firmware: the version is not UTF-16")
	}
	var version []uint16
	for i := 0; i+2 < len(o.CRTMVersion); i += 2 {
		version = append(version, uint16(o.CRTMVersion[i])|uint16(o.CRTMVersion[i+1])<<8)
	}
	return fmt.Sprintf("\t%q: {\n\t\tname:        %q,\n\t\tcrtmVersion: %q,\n\t\tplatformHOB: %#x,\n\t},\n",
		fmt.Sprintf("%x", sha256.Sum256(code)), name, string(utf16.Decode(version)), at), nil
}
