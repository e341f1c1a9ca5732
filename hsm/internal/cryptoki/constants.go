// SPDX-License-Identifier: Apache-2.0

package cryptoki

// Mechanism is a CK_MECHANISM_TYPE.
type Mechanism uint

// The mechanisms that package hsm uses. Those of EdDSA are of version 3.0.
const (
	ECKeyPairGen         Mechanism = 0x1040
	ECDSA                Mechanism = 0x1041
	ECDH1Derive          Mechanism = 0x1050
	EdwardsKeyPairGen    Mechanism = 0x1055
	MontgomeryKeyPairGen Mechanism = 0x1056
	EdDSA                Mechanism = 0x1057
	AESKeyGen            Mechanism = 0x1080
	AESCBCPad            Mechanism = 0x1085
	AESGCM               Mechanism = 0x1087
	AESKeyWrap           Mechanism = 0x2109
	GenericSecretKeyGen  Mechanism = 0x350
	SHA256HMAC           Mechanism = 0x251
)

// Attribute is a CK_ATTRIBUTE_TYPE.
type Attribute uint

// The attributes that package hsm uses.
const (
	CKAClass              Attribute = 0x0
	CKAToken              Attribute = 0x1
	CKAPrivate            Attribute = 0x2
	CKALabel              Attribute = 0x3
	CKAApplication        Attribute = 0x10
	CKAValue              Attribute = 0x11
	CKACertificateType    Attribute = 0x80
	CKAKeyType            Attribute = 0x100
	CKAID                 Attribute = 0x102
	CKASensitive          Attribute = 0x103
	CKAEncrypt            Attribute = 0x104
	CKADecrypt            Attribute = 0x105
	CKAWrap               Attribute = 0x106
	CKAUnwrap             Attribute = 0x107
	CKASign               Attribute = 0x108
	CKAVerify             Attribute = 0x10a
	CKADerive             Attribute = 0x10c
	CKAValueLen           Attribute = 0x161
	CKAExtractable        Attribute = 0x162
	CKALocal              Attribute = 0x163
	CKANeverExtractable   Attribute = 0x164
	CKAAlwaysSensitive    Attribute = 0x165
	CKAECParams           Attribute = 0x180
	CKAECPoint            Attribute = 0x181
	CKAAlwaysAuthenticate Attribute = 0x202
)

// Classes of objects, values of CKAClass.
const (
	ClassCertificate uint = 1
	ClassPublicKey   uint = 2
	ClassPrivateKey  uint = 3
	ClassSecretKey   uint = 4
)

// Types of keys, values of CKAKeyType.
const (
	KeyEC            uint = 3
	KeyGenericSecret uint = 0x10
	KeyAES           uint = 0x1f
	KeySHA256HMAC    uint = 0x2b
	KeyECEdwards     uint = 0x40
	KeyECMontgomery  uint = 0x41
)

// The results that package hsm tells apart.
const (
	ErrHostMemory                 Error = 0x2
	ErrSlotIDInvalid              Error = 0x3
	ErrGeneralError               Error = 0x5
	ErrFunctionFailed             Error = 0x6
	ErrArgumentsBad               Error = 0x7
	ErrAttributeSensitive         Error = 0x11
	ErrAttributeReadOnly          Error = 0x10
	ErrAttributeTypeInvalid       Error = 0x12
	ErrAttributeValueInvalid      Error = 0x13
	ErrDataInvalid                Error = 0x20
	ErrDataLenRange               Error = 0x21
	ErrDeviceError                Error = 0x30
	ErrDeviceMemory               Error = 0x31
	ErrDeviceRemoved              Error = 0x32
	ErrEncryptedDataInvalid       Error = 0x40
	ErrEncryptedDataLenRange      Error = 0x41
	ErrFunctionNotSupported       Error = 0x54
	ErrKeyHandleInvalid           Error = 0x60
	ErrKeySizeRange               Error = 0x62
	ErrKeyFunctionNotPermitted    Error = 0x68
	ErrKeyUnextractable           Error = 0x6a
	ErrMechanismInvalid           Error = 0x70
	ErrMechanismParamInvalid      Error = 0x71
	ErrObjectHandleInvalid        Error = 0x82
	ErrOperationActive            Error = 0x90
	ErrOperationNotInitialized    Error = 0x91
	ErrPINIncorrect               Error = 0xa0
	ErrPINInvalid                 Error = 0xa1
	ErrPINLenRange                Error = 0xa2
	ErrPINExpired                 Error = 0xa3
	ErrPINLocked                  Error = 0xa4
	ErrSessionClosed              Error = 0xb0
	ErrSessionCount               Error = 0xb1
	ErrSessionHandleInvalid       Error = 0xb3
	ErrSessionReadOnly            Error = 0xb5
	ErrSignatureInvalid           Error = 0xc0
	ErrTemplateIncomplete         Error = 0xd0
	ErrTemplateInconsistent       Error = 0xd1
	ErrTokenNotPresent            Error = 0xe0
	ErrTokenNotRecognized         Error = 0xe1
	ErrUserAlreadyLoggedIn        Error = 0x100
	ErrSessionReadOnlyExists      Error = 0xb7
	ErrUserAnotherAlreadyLoggedIn Error = 0x104
	ErrUserTooManyTypes           Error = 0x105
	ErrUserNotLoggedIn            Error = 0x101
	ErrUserPINNotInitialized      Error = 0x102
	ErrWrappedKeyInvalid          Error = 0x110
	ErrWrappedKeyLenRange         Error = 0x112
	ErrUnwrappingKeyHandleInvalid Error = 0xf0
	ErrWrappingKeyHandleInvalid   Error = 0x113
	ErrCryptokiNotInitialized     Error = 0x190
	ErrCryptokiAlreadyInitialized Error = 0x191
	ErrBufferTooSmall             Error = 0x150
)

var errorNames = map[Error]string{
	ErrHostMemory:                 "CKR_HOST_MEMORY",
	ErrSlotIDInvalid:              "CKR_SLOT_ID_INVALID",
	ErrGeneralError:               "CKR_GENERAL_ERROR",
	ErrFunctionFailed:             "CKR_FUNCTION_FAILED",
	ErrArgumentsBad:               "CKR_ARGUMENTS_BAD",
	ErrAttributeSensitive:         "CKR_ATTRIBUTE_SENSITIVE",
	ErrAttributeReadOnly:          "CKR_ATTRIBUTE_READ_ONLY",
	ErrAttributeTypeInvalid:       "CKR_ATTRIBUTE_TYPE_INVALID",
	ErrAttributeValueInvalid:      "CKR_ATTRIBUTE_VALUE_INVALID",
	ErrDataInvalid:                "CKR_DATA_INVALID",
	ErrDataLenRange:               "CKR_DATA_LEN_RANGE",
	ErrDeviceError:                "CKR_DEVICE_ERROR",
	ErrDeviceMemory:               "CKR_DEVICE_MEMORY",
	ErrDeviceRemoved:              "CKR_DEVICE_REMOVED",
	ErrEncryptedDataInvalid:       "CKR_ENCRYPTED_DATA_INVALID",
	ErrEncryptedDataLenRange:      "CKR_ENCRYPTED_DATA_LEN_RANGE",
	ErrFunctionNotSupported:       "CKR_FUNCTION_NOT_SUPPORTED",
	ErrKeyHandleInvalid:           "CKR_KEY_HANDLE_INVALID",
	ErrKeySizeRange:               "CKR_KEY_SIZE_RANGE",
	ErrKeyFunctionNotPermitted:    "CKR_KEY_FUNCTION_NOT_PERMITTED",
	ErrKeyUnextractable:           "CKR_KEY_UNEXTRACTABLE",
	ErrMechanismInvalid:           "CKR_MECHANISM_INVALID",
	ErrMechanismParamInvalid:      "CKR_MECHANISM_PARAM_INVALID",
	ErrObjectHandleInvalid:        "CKR_OBJECT_HANDLE_INVALID",
	ErrOperationActive:            "CKR_OPERATION_ACTIVE",
	ErrOperationNotInitialized:    "CKR_OPERATION_NOT_INITIALIZED",
	ErrPINIncorrect:               "CKR_PIN_INCORRECT",
	ErrPINInvalid:                 "CKR_PIN_INVALID",
	ErrPINLenRange:                "CKR_PIN_LEN_RANGE",
	ErrPINExpired:                 "CKR_PIN_EXPIRED",
	ErrPINLocked:                  "CKR_PIN_LOCKED",
	ErrSessionClosed:              "CKR_SESSION_CLOSED",
	ErrSessionCount:               "CKR_SESSION_COUNT",
	ErrSessionHandleInvalid:       "CKR_SESSION_HANDLE_INVALID",
	ErrSessionReadOnly:            "CKR_SESSION_READ_ONLY",
	ErrSignatureInvalid:           "CKR_SIGNATURE_INVALID",
	ErrTemplateIncomplete:         "CKR_TEMPLATE_INCOMPLETE",
	ErrTemplateInconsistent:       "CKR_TEMPLATE_INCONSISTENT",
	ErrTokenNotPresent:            "CKR_TOKEN_NOT_PRESENT",
	ErrTokenNotRecognized:         "CKR_TOKEN_NOT_RECOGNIZED",
	ErrUserAlreadyLoggedIn:        "CKR_USER_ALREADY_LOGGED_IN",
	ErrSessionReadOnlyExists:      "CKR_SESSION_READ_ONLY_EXISTS",
	ErrUserAnotherAlreadyLoggedIn: "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
	ErrUserTooManyTypes:           "CKR_USER_TOO_MANY_TYPES",
	ErrUserNotLoggedIn:            "CKR_USER_NOT_LOGGED_IN",
	ErrUserPINNotInitialized:      "CKR_USER_PIN_NOT_INITIALIZED",
	ErrWrappedKeyInvalid:          "CKR_WRAPPED_KEY_INVALID",
	ErrWrappedKeyLenRange:         "CKR_WRAPPED_KEY_LEN_RANGE",
	ErrUnwrappingKeyHandleInvalid: "CKR_UNWRAPPING_KEY_HANDLE_INVALID",
	ErrWrappingKeyHandleInvalid:   "CKR_WRAPPING_KEY_HANDLE_INVALID",
	ErrCryptokiNotInitialized:     "CKR_CRYPTOKI_NOT_INITIALIZED",
	ErrCryptokiAlreadyInitialized: "CKR_CRYPTOKI_ALREADY_INITIALIZED",
	ErrBufferTooSmall:             "CKR_BUFFER_TOO_SMALL",
}
