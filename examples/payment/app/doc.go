// Package app is what the payment service does. Its commands move money at a provider, which no transaction can
// roll back, so each of them is an effect: a first transaction records the intent, the provider is called outside
// of any, under a key that is the same however often it is called, and a second transaction applies the answer.
package app
