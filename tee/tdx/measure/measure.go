// Package measure computes what a TD measures from what is launched: MRTD.
package measure

import "fmt"

// MRTD is the launch digest of a firmware image.
func MRTD(fw []byte) (Digest, error) {
	if len(fw) > MaxFirmware {
		return Digest{}, fmt.Errorf("firmware: %d bytes, at most %d", len(fw), MaxFirmware)
	}
	ss, err := sections(fw)
	if err != nil {
		return Digest{}, err
	}
	return mrtd(fw, ss, false), nil
}
