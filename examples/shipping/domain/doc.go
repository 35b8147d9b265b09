// Package domain is the shipping service's model: the Shipment of one order.
//
// A shipment is prepared before the customer is charged, so that a parcel that cannot be sent costs nobody money,
// and handed over once the order is confirmed. One that was handed over comes back as a return.
//
//	prepared ──► dispatched ──► returned
//	    └──────► cancelled
package domain
