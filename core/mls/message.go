// SPDX-License-Identifier: Apache-2.0

package mls

// An MLSMessage is what travels (RFC 9420 section 6); exactly one field is set.
type MLSMessage struct {
	PublicMessage  *PublicMessage
	PrivateMessage *PrivateMessage
	Welcome        *Welcome
	GroupInfo      *GroupInfo
	KeyPackage     *KeyPackage
}

// WireFormat tells which field is set; 0 if none.
func (m *MLSMessage) WireFormat() WireFormat {
	switch {
	case m.PublicMessage != nil:
		return WirePublicMessage
	case m.PrivateMessage != nil:
		return WirePrivateMessage
	case m.Welcome != nil:
		return WireWelcome
	case m.GroupInfo != nil:
		return WireGroupInfo
	case m.KeyPackage != nil:
		return WireKeyPackage
	}
	return 0
}

// Marshal encodes the message.
func (m *MLSMessage) Marshal() []byte {
	b := appendU16(nil, uint16(MLS10))
	b = appendU16(b, uint16(m.WireFormat()))
	switch {
	case m.PublicMessage != nil:
		return m.PublicMessage.append(b)
	case m.PrivateMessage != nil:
		return m.PrivateMessage.append(b)
	case m.Welcome != nil:
		return m.Welcome.append(b)
	case m.GroupInfo != nil:
		return m.GroupInfo.append(b)
	case m.KeyPackage != nil:
		return m.KeyPackage.append(b)
	}
	return b
}

// UnmarshalMLSMessage decodes any message. Other versions and wire formats are
// [ErrMalformed] (COD-11).
func UnmarshalMLSMessage(data []byte) (*MLSMessage, error) {
	m := &MLSMessage{}
	err := unmarshal("MLSMessage", data, func(r *reader) {
		if ProtocolVersion(r.u16()) != MLS10 {
			r.fail()
		}
		switch WireFormat(r.u16()) {
		case WirePublicMessage:
			m.PublicMessage = readPublicMessage(r)
		case WirePrivateMessage:
			m.PrivateMessage = readPrivateMessage(r)
		case WireWelcome:
			m.Welcome = readWelcome(r)
		case WireGroupInfo:
			m.GroupInfo = readGroupInfo(r)
		case WireKeyPackage:
			m.KeyPackage = readKeyPackage(r)
		default:
			r.fail()
		}
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// GroupID and Epoch of a Public- or PrivateMessage; ok is false for others.
func (m *MLSMessage) GroupEpoch() (groupID []byte, epoch uint64, ok bool) {
	switch {
	case m.PublicMessage != nil:
		return m.PublicMessage.Content.GroupID, m.PublicMessage.Content.Epoch, true
	case m.PrivateMessage != nil:
		return m.PrivateMessage.GroupID, m.PrivateMessage.Epoch, true
	}
	return nil, 0, false
}
