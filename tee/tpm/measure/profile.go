package measure

// profile holds what a firmware build measures and how, as far as its bytes
// alone do not say it.
type profile struct {
	name        string // package and version, for people
	crtmVersion string // PcdFirmwareVersionString, measured as EV_S_CRTM_VERSION
	platformHOB int    // offset of PlatformPei's platform HOB in the PEI volume
}

// profiles is keyed by the SHA-256 of the code volume. Each entry was learned
// by booting the firmware under QEMU with swtpm: Learn finds the offset at which
// the platform's facts explain the measured PEI volume, and the test Learn of
// test/measured boots a firmware and prints its entry.
var profiles = map[string]profile{
	"b157d97b1f69729514feb7f201d2cbe4957f23ab77920e361fe9f822ba49ca4c": {
		name:        "ovmf 2022.11-6+deb12u2 OVMF_CODE_4M.fd",
		crtmVersion: "",
		platformHOB: 0xe0c0,
	},
	"d9b568def24088c92f34b5479e0ed7e44d0a4d4cea8a0f5716719180bba48106": {
		name:        "ovmf 2022.11-6+deb12u2 OVMF_CODE.fd",
		crtmVersion: "",
		platformHOB: 0xefc0,
	},
}
