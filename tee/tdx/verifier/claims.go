package verifier

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/cofferproject/coffer/tee/eventlog"
	"github.com/cofferproject/coffer/tee/intel/quote"
)

// Claims gives the published claims of a quote with a TD's body and of its event
// log (nil: none): bytes as they stand in the quote, in hex. Those of DCAP come
// from tee/intel.
func Claims(q *quote.Quote, log *eventlog.Log) map[string]any {
	le16 := func(v uint16) string { return hex.EncodeToString(binary.LittleEndian.AppendUint16(nil, v)) }
	le32 := func(v uint32) string { return hex.EncodeToString(binary.LittleEndian.AppendUint32(nil, v)) }
	h, td := &q.Header, q.TD
	body := map[string]any{
		"tcb_svn":         hex.EncodeToString(td.TCBSVN[:]),
		"mr_seam":         hex.EncodeToString(td.MRSEAM[:]),
		"mrsigner_seam":   hex.EncodeToString(td.MRSignerSEAM[:]),
		"seam_attributes": hex.EncodeToString(td.SEAMAttributes[:]),
		"td_attributes":   hex.EncodeToString(td.TDAttributes[:]),
		"xfam":            hex.EncodeToString(td.XFAM[:]),
		"mr_td":           hex.EncodeToString(td.MRTD[:]),
		"mr_config_id":    hex.EncodeToString(td.MRConfigID[:]),
		"mr_owner":        hex.EncodeToString(td.MROwner[:]),
		"mr_owner_config": hex.EncodeToString(td.MROwnerConfig[:]),
		"rtmr_0":          hex.EncodeToString(td.RTMR[0][:]),
		"rtmr_1":          hex.EncodeToString(td.RTMR[1][:]),
		"rtmr_2":          hex.EncodeToString(td.RTMR[2][:]),
		"rtmr_3":          hex.EncodeToString(td.RTMR[3][:]),
		"report_data":     hex.EncodeToString(td.ReportData[:]),
	}
	if td.V15 != nil {
		body["tee_tcb_svn2"] = hex.EncodeToString(td.V15.TCBSVN2[:])
		body["mr_servicetd"] = hex.EncodeToString(td.V15.MRServiceTD[:])
	}
	quoteClaims := map[string]any{
		"header": map[string]any{
			"version":      le16(h.Version),
			"att_key_type": le16(h.AttKeyType),
			"tee_type":     le32(h.TEEType),
			"reserved":     hex.EncodeToString(h.Reserved[:]),
			"vendor_id":    hex.EncodeToString(h.Vendor[:]),
			"user_data":    hex.EncodeToString(h.UserData[:]),
		},
		"body": body,
	}
	if h.Version == 5 {
		quoteClaims["type"], quoteClaims["size"] = le16(q.BodyType), le32(q.BodySize)
	}
	a := td.Attributes()
	c := map[string]any{
		"quote": quoteClaims,
		"td_attributes": map[string]any{
			"debug":           debug(td),
			"septve_disable":  a&quote.TDSEPTVEDisable != 0,
			"protection_keys": a&quote.TDProtectionKeys != 0,
			"key_locker":      a&quote.TDKeyLocker != 0,
			"perfmon":         a&quote.TDPerfmon != 0,
		},
		"report_data": body["report_data"],
		"init_data":   body["mr_config_id"],
	}
	if log != nil {
		c["uefi_event_logs"] = log.Describe()
	}
	return c
}
