package refvalue

import (
	"fmt"
	"strconv"
	"strings"
)

// EventType is an event type of the TCG PC Client Platform Firmware Profile,
// section 10.4.1. In JSON it is the profile's name, or 0x and eight hex digits.
type EventType uint32

// Event types that occur in a measured boot of OVMF and Linux.
const (
	PrebootCert              EventType = 0x00000000
	PostCode                 EventType = 0x00000001
	NoAction                 EventType = 0x00000003
	Separator                EventType = 0x00000004
	Action                   EventType = 0x00000005
	EventTag                 EventType = 0x00000006
	SCRTMContents            EventType = 0x00000007
	SCRTMVersion             EventType = 0x00000008
	CPUMicrocode             EventType = 0x00000009
	PlatformConfigFlags      EventType = 0x0000000A
	TableOfDevices           EventType = 0x0000000B
	CompactHash              EventType = 0x0000000C
	IPL                      EventType = 0x0000000D
	IPLPartitionData         EventType = 0x0000000E
	NonhostInfo              EventType = 0x00000011
	OmitBootDeviceEvents     EventType = 0x00000012
	EFIVariableDriverConfig  EventType = 0x80000001
	EFIVariableBoot          EventType = 0x80000002
	EFIBootServicesApp       EventType = 0x80000003
	EFIBootServicesDriver    EventType = 0x80000004
	EFIRuntimeServicesDriver EventType = 0x80000005
	EFIGPTEvent              EventType = 0x80000006
	EFIAction                EventType = 0x80000007
	EFIPlatformFirmwareBlob  EventType = 0x80000008
	EFIHandoffTables         EventType = 0x80000009
	EFIPlatformFirmwareBlob2 EventType = 0x8000000A
	EFIHandoffTables2        EventType = 0x8000000B
	EFIVariableBoot2         EventType = 0x8000000C
	EFIHCRTMEvent            EventType = 0x80000010
	EFIVariableAuthority     EventType = 0x800000E0
	EFISPDMFirmwareBlob      EventType = 0x800000E1
	EFISPDMFirmwareConfig    EventType = 0x800000E2
)

var typeNames = map[EventType]string{
	PrebootCert:              "EV_PREBOOT_CERT",
	PostCode:                 "EV_POST_CODE",
	NoAction:                 "EV_NO_ACTION",
	Separator:                "EV_SEPARATOR",
	Action:                   "EV_ACTION",
	EventTag:                 "EV_EVENT_TAG",
	SCRTMContents:            "EV_S_CRTM_CONTENTS",
	SCRTMVersion:             "EV_S_CRTM_VERSION",
	CPUMicrocode:             "EV_CPU_MICROCODE",
	PlatformConfigFlags:      "EV_PLATFORM_CONFIG_FLAGS",
	TableOfDevices:           "EV_TABLE_OF_DEVICES",
	CompactHash:              "EV_COMPACT_HASH",
	IPL:                      "EV_IPL",
	IPLPartitionData:         "EV_IPL_PARTITION_DATA",
	NonhostInfo:              "EV_NONHOST_INFO",
	OmitBootDeviceEvents:     "EV_OMIT_BOOT_DEVICE_EVENTS",
	EFIVariableDriverConfig:  "EV_EFI_VARIABLE_DRIVER_CONFIG",
	EFIVariableBoot:          "EV_EFI_VARIABLE_BOOT",
	EFIBootServicesApp:       "EV_EFI_BOOT_SERVICES_APPLICATION",
	EFIBootServicesDriver:    "EV_EFI_BOOT_SERVICES_DRIVER",
	EFIRuntimeServicesDriver: "EV_EFI_RUNTIME_SERVICES_DRIVER",
	EFIGPTEvent:              "EV_EFI_GPT_EVENT",
	EFIAction:                "EV_EFI_ACTION",
	EFIPlatformFirmwareBlob:  "EV_EFI_PLATFORM_FIRMWARE_BLOB",
	EFIHandoffTables:         "EV_EFI_HANDOFF_TABLES",
	EFIPlatformFirmwareBlob2: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
	EFIHandoffTables2:        "EV_EFI_HANDOFF_TABLES2",
	EFIVariableBoot2:         "EV_EFI_VARIABLE_BOOT2",
	EFIHCRTMEvent:            "EV_EFI_HCRTM_EVENT",
	EFIVariableAuthority:     "EV_EFI_VARIABLE_AUTHORITY",
	EFISPDMFirmwareBlob:      "EV_EFI_SPDM_FIRMWARE_BLOB",
	EFISPDMFirmwareConfig:    "EV_EFI_SPDM_FIRMWARE_CONFIG",
}

var typesByName = func() map[string]EventType {
	m := make(map[string]EventType, len(typeNames))
	for t, n := range typeNames {
		m[n] = t
	}
	return m
}()

// String gives the profile's name, or the number in hex.
func (t EventType) String() string {
	if n, ok := typeNames[t]; ok {
		return n
	}
	return fmt.Sprintf("0x%08x", uint32(t))
}

// MarshalText is String.
func (t EventType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (t *EventType) UnmarshalText(b []byte) error {
	if v, ok := typesByName[string(b)]; ok {
		*t = v
		return nil
	}
	h, ok := strings.CutPrefix(string(b), "0x")
	if !ok || len(h) != 8 {
		return fmt.Errorf("event type %.40q is neither a known name nor 0x and eight hex digits", b)
	}
	n, err := strconv.ParseUint(h, 16, 32)
	if err != nil {
		return fmt.Errorf("event type: %w", err)
	}
	*t = EventType(n)
	return nil
}
