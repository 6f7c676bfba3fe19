package initdata

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/BurntSushi/toml"

	"github.com/cofferproject/coffer/api/svid"
)

// AAConfig is the member aa.toml: the published attestation-agent configuration.
// An unknown member is an error.
type AAConfig struct {
	// AdditionalDevices are the kinds of devices beside the CPU, by their TEEs'
	// wire names ("nvidia"), whose evidence must be part of every attestation
	// (addition); see Document.AdditionalDevices.
	AdditionalDevices []string `toml:"additional_devices,omitempty"`
	// BindChannel has the guest take no attestation result but over a TLS connection
	// that its evidence covers (addition; api/kbs SPEC.md, "Binding").
	BindChannel bool `toml:"bind_channel,omitempty"`
	// Identities are the names of the SPIFFE identities that the pod's workloads may ask
	// for through the guest (addition; api/svid).
	Identities []string `toml:"identities,omitempty"`

	TokenConfigs struct {
		KBS    *AAKBS    `toml:"kbs,omitempty"`
		CoCoAS *AACoCoAS `toml:"coco_as,omitempty"`
	} `toml:"token_configs,omitempty"`
	EventlogConfig *AAEventlog `toml:"eventlog_config,omitempty"`
	Log            *LogConfig  `toml:"log,omitempty"`
}

// AAEventlog says whether and where run-time events are recorded.
type AAEventlog struct {
	EnableEventlog bool `toml:"enable_eventlog"`
	// InitPCR is the register of events that name none; nil: 17, as published.
	InitPCR *int `toml:"init_pcr,omitempty"`
	// EventlogAlgorithm must be the register's own; "": whichever that is.
	EventlogAlgorithm string `toml:"eventlog_algorithm,omitempty"`
}

// AAKBS says which KBS the TEE attests to.
type AAKBS struct {
	URL             string `toml:"url"`
	Cert            string `toml:"cert,omitempty"` // PEM; the only CA that is trusted
	TEEKeyAlgorithm string `toml:"tee_key_algorithm,omitempty"`
	// InsecureExportTEEKey lets GetToken give the TEE's private key to its
	// caller, as the published agent always does (addition).
	InsecureExportTEEKey bool `toml:"insecure_export_tee_key,omitempty"`
}

// AACoCoAS is read and not used: Coffer's guest attests through a KBS.
type AACoCoAS struct {
	URL string `toml:"url"`
}

// LogConfig is the published log level.
type LogConfig struct {
	Level string `toml:"level"`
}

// CDHConfig is the member cdh.toml: the published confidential-data-hub
// configuration. An unknown member is an error.
type CDHConfig struct {
	Socket      string          `toml:"socket,omitempty"`
	AA          *CDHAA          `toml:"aa,omitempty"`
	KBC         CDHKBC          `toml:"kbc"`
	Credentials []CDHCredential `toml:"credentials,omitempty"`
	// SkipSealedSecretVerification is never obeyed; a document that sets it is refused.
	SkipSealedSecretVerification bool       `toml:"skip_sealed_secret_verification,omitempty"`
	Image                        CDHImage   `toml:"image,omitempty"`
	Log                          *LogConfig `toml:"log,omitempty"`
}

// CDHAA names the attestation agent's socket; Coffer's is fixed.
type CDHAA struct {
	Socket string `toml:"aa_socket,omitempty"`
}

// CDHKBC names the KBS.
type CDHKBC struct {
	Name    string `toml:"name"` // "cc_kbc"
	URL     string `toml:"url,omitempty"`
	KBSCert string `toml:"kbs_cert,omitempty"` // PEM
}

// CDHCredential is a resource to be fetched at start.
type CDHCredential struct {
	Path        string `toml:"path"`
	ResourceURI string `toml:"resource_uri"`
}

// CDHImage configures the guest's image pulls.
type CDHImage struct {
	WorkDir                             string          `toml:"work_dir,omitempty"`
	ImageSecurityPolicyURI              string          `toml:"image_security_policy_uri,omitempty"`
	ImageSecurityPolicy                 string          `toml:"image_security_policy,omitempty"`
	SigstoreConfigURI                   string          `toml:"sigstore_config_uri,omitempty"`
	SigstoreConfig                      string          `toml:"sigstore_config,omitempty"`
	AuthenticatedRegistryCredentialsURI string          `toml:"authenticated_registry_credentials_uri,omitempty"`
	RegistryConfigurationURI            string          `toml:"registry_configuration_uri,omitempty"`
	RegistryConfig                      *RegistryConfig `toml:"registry_config,omitempty"`
	MaxConcurrentLayerDownloads         int             `toml:"max_concurrent_layer_downloads_per_image,omitempty"`
	ImagePullProxy                      *PullProxy      `toml:"image_pull_proxy,omitempty"`
	ExtraRootCertificates               []string        `toml:"extra_root_certificates,omitempty"` // PEM
}

// PullProxy is the proxy for image pulls.
type PullProxy struct {
	HTTPS string `toml:"https_proxy,omitempty"`
	HTTP  string `toml:"http_proxy,omitempty"`
	No    string `toml:"no_proxy,omitempty"`
}

// RegistryConfig has the form of registries.conf version 2.
type RegistryConfig struct {
	UnqualifiedSearchRegistries []string   `toml:"unqualified-search-registries,omitempty"`
	Registry                    []Registry `toml:"registry,omitempty"`
}

// Registry configures one prefix.
type Registry struct {
	Prefix   string   `toml:"prefix,omitempty"`
	Location string   `toml:"location"`
	Insecure bool     `toml:"insecure,omitempty"`
	Blocked  bool     `toml:"blocked,omitempty"`
	Mirror   []Mirror `toml:"mirror,omitempty"`
}

// Mirror is tried before its registry.
type Mirror struct {
	Location string `toml:"location"`
	Insecure bool   `toml:"insecure,omitempty"`
}

// AA gives aa.toml, nil if the document has none.
func (d *Document) AA() (*AAConfig, error) {
	c := new(AAConfig)
	md, err := d.member(KeyAA, c)
	if md == nil || err != nil {
		return nil, err
	}
	if err := exact(md, devicesKey, bindChannelKey, identitiesKey); err != nil {
		return nil, fmt.Errorf("initdata: %s: %w", KeyAA, err)
	}
	if err := CheckIdentities(c.Identities); err != nil {
		return nil, fmt.Errorf("initdata: %s: %w", KeyAA, err)
	}
	return c, nil
}

const (
	bindChannelKey = "bind_channel"
	identitiesKey  = "identities"
	maxIdentities  = 16
)

// CheckIdentities reports what makes a list of identities invalid: too long, no name of
// one, or one that comes twice.
func CheckIdentities(names []string) error {
	if len(names) > maxIdentities {
		return fmt.Errorf("%s: %d names, at most %d", identitiesKey, len(names), maxIdentities)
	}
	for i, n := range names {
		if err := svid.CheckName(n); err != nil {
			return fmt.Errorf("%s: %w", identitiesKey, err)
		}
		if slices.Contains(names[:i], n) {
			return fmt.Errorf("%s: %q comes twice", identitiesKey, n)
		}
	}
	return nil
}

// exact holds top-level members to their spelling: the decoder takes any case, and of two
// spellings one at random.
func exact(md *toml.MetaData, members ...string) error {
	for _, k := range md.Keys() {
		for _, m := range members {
			if len(k) == 1 && k[0] != m && strings.EqualFold(k[0], m) {
				return fmt.Errorf("%.40q is spelled %s", k[0], m)
			}
		}
	}
	return nil
}

// maxDevices bounds additional_devices, as the KBS protocol bounds evidence.
const maxDevices = 16

const devicesKey = "additional_devices"

var deviceName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`) })

// AdditionalDevices gives the kinds of devices whose evidence the owner demands,
// in the order of their names; nil: none. Guest and trustee both hold an
// attestation to this list. Other members of aa.toml, which the guest alone
// understands, are not looked at.
func (d *Document) AdditionalDevices() ([]string, error) {
	s, ok := d.Data[KeyAA]
	if !ok {
		return nil, nil
	}
	if err := checkTOML([]byte(s)); err != nil {
		return nil, fmt.Errorf("initdata: %s: %w", KeyAA, err)
	}
	var c struct {
		Devices []string `toml:"additional_devices"`
	}
	md, err := toml.Decode(s, &c)
	if err != nil {
		return nil, fmt.Errorf("initdata: %s: %w", KeyAA, err)
	}
	if err := exact(&md, devicesKey); err != nil {
		return nil, fmt.Errorf("initdata: %s: %w", KeyAA, err)
	}
	if err := CheckDevices(c.Devices); err != nil {
		return nil, fmt.Errorf("initdata: %s: %w", KeyAA, err)
	}
	slices.Sort(c.Devices)
	return c.Devices, nil
}

// CheckDevices reports what makes a list of additional devices invalid: too long,
// a name that no TEE has, or one that comes twice.
func CheckDevices(names []string) error {
	if len(names) > maxDevices {
		return fmt.Errorf("additional_devices: %d kinds, at most %d", len(names), maxDevices)
	}
	for i, n := range names {
		if !deviceName().MatchString(n) {
			return fmt.Errorf("additional_devices: %.80q is no TEE's wire name", n)
		}
		if slices.Contains(names[:i], n) {
			return fmt.Errorf("additional_devices: %q comes twice", n)
		}
	}
	return nil
}

// CDH gives cdh.toml, nil if the document has none.
func (d *Document) CDH() (*CDHConfig, error) {
	c := new(CDHConfig)
	md, err := d.member(KeyCDH, c)
	if md == nil || err != nil {
		return nil, err
	}
	if c.SkipSealedSecretVerification {
		return nil, fmt.Errorf("initdata: %s: skip_sealed_secret_verification is not supported", KeyCDH)
	}
	return c, nil
}

// KBS gives the trustee that both members name: base URL without a slash at
// the end, and its CA. They must agree; ok is false if there is none.
func (d *Document) KBS() (url, cert string, ok bool, err error) {
	aa, err := d.AA()
	if err != nil {
		return "", "", false, err
	}
	cdh, err := d.CDH()
	if err != nil {
		return "", "", false, err
	}
	if aa != nil && aa.TokenConfigs.KBS != nil {
		url, cert = strings.TrimRight(aa.TokenConfigs.KBS.URL, "/"), aa.TokenConfigs.KBS.Cert
	}
	if cdh != nil && cdh.KBC.URL != "" {
		u := strings.TrimRight(cdh.KBC.URL, "/")
		if url != "" && (u != url || strings.TrimSpace(cdh.KBC.KBSCert) != strings.TrimSpace(cert)) {
			return "", "", false, fmt.Errorf("initdata: %s and %s name different trustees or CAs", KeyAA, KeyCDH)
		}
		url, cert = u, cdh.KBC.KBSCert
	}
	return url, cert, url != "", nil
}

// member decodes a member of data; nil without an error: there is none.
func (d *Document) member(key string, v any) (*toml.MetaData, error) {
	s, ok := d.Data[key]
	if !ok {
		return nil, nil
	}
	if err := checkTOML([]byte(s)); err != nil {
		return nil, fmt.Errorf("initdata: %s: %w", key, err)
	}
	md, err := toml.Decode(s, v)
	if err != nil {
		return nil, fmt.Errorf("initdata: %s: %w", key, err)
	}
	if u := md.Undecoded(); len(u) > 0 {
		return nil, fmt.Errorf("initdata: %s: unknown member %.80q", key, u[0].String())
	}
	return &md, nil
}

// EncodeConfig writes an AAConfig or CDHConfig as TOML.
func EncodeConfig(v any) (string, error) {
	var b strings.Builder
	e := toml.NewEncoder(&b)
	e.Indent = ""
	if err := e.Encode(v); err != nil {
		return "", fmt.Errorf("encoding initdata member: %w", err)
	}
	return b.String(), nil
}
