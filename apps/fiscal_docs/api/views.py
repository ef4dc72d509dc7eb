"""Reading fiscal documents over HTTP: who may, what, and as which file."""

from uuid import UUID

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.common import parameters
from apps.common.openapi import problem
from apps.common.pagination import page_rows
from apps.fiscal_docs import queries
from apps.fiscal_docs.api.serializers import DocumentPageSerializer, DocumentSerializer
from apps.fiscal_docs.lifecycle import State
from apps.identity.public import require_scope

SCOPE = "fiscal:read"
PROBLEMS = {
    401: problem("The account or its secret is wrong or missing (R010, R701)."),
    404: problem("There is no such document, or it is not yours (R004)."),
}


def _account(request: Request) -> str:
    """The caller's account, once its scope is checked."""
    return require_scope(request, SCOPE).account_id


def _file(content: bytes, media_type: str, name: str, *, inline: bool = False) -> HttpResponse:
    response = HttpResponse(content, content_type=media_type)
    response["Content-Disposition"] = f'{"inline" if inline else "attachment"}; filename="{name}"'
    return response


class DocumentsView(APIView):
    """GET /fiscal-documents"""

    @extend_schema(
        operation_id="list_fiscal_documents",
        tags=["fiscal documents"],
        summary="Find fiscal documents, the newest first",
        parameters=[
            OpenApiParameter("order_id", OpenApiTypes.UUID),
            OpenApiParameter("access_key", OpenApiTypes.STR, description="Exactly 44 characters."),
            OpenApiParameter("state", OpenApiTypes.STR, enum=[*State], description="Those that are in this state now."),
            OpenApiParameter(
                "cursor", OpenApiTypes.STR, description="The next_cursor of the page before, with the same filters."
            ),
            OpenApiParameter("limit", OpenApiTypes.INT, description="1 to 500; 50 when missing."),
        ],
        responses={200: DocumentPageSerializer, 401: PROBLEMS[401], 422: problem("A parameter is malformed (R001).")},
    )
    def get(self, request: Request) -> Response:
        account_id, asked = _account(request), request.query_params
        wanted = queries.Search(
            order_id=parameters.uuid(request, "order_id"),
            access_key=asked.get("access_key", ""),
            state=parameters.one_of(request, "state", [*State]) or "",
        )
        page = queries.search(
            account_id=account_id, wanted=wanted, cursor=asked.get("cursor"), rows=page_rows(asked.get("limit"))
        )
        return Response(DocumentPageSerializer({"documents": page.rows, "next_cursor": page.next_cursor}).data)


class DocumentDetailView(APIView):
    """GET /fiscal-documents/{id}"""

    @extend_schema(
        operation_id="get_fiscal_document",
        tags=["fiscal documents"],
        summary="One fiscal document: its state, key and links",
        responses={200: DocumentSerializer, **PROBLEMS},
    )
    def get(self, request: Request, document_id: UUID) -> Response:
        return Response(DocumentSerializer(queries.document(document_id=document_id, account_id=_account(request))).data)


class DocumentXmlView(APIView):
    """GET /fiscal-documents/{id}/xml"""

    @extend_schema(
        operation_id="get_fiscal_document_xml",
        tags=["fiscal documents"],
        summary="The exact archived file: with protocol once authorised, else as signed",
        responses={(200, "application/xml"): OpenApiTypes.BINARY, **PROBLEMS},
    )
    def get(self, request: Request, document_id: UUID) -> HttpResponse:
        name, content = queries.xml(document_id=document_id, account_id=_account(request))
        return _file(content, "application/xml", name)


class DocumentDanfeView(APIView):
    """GET /fiscal-documents/{id}/danfe"""

    @extend_schema(
        operation_id="get_fiscal_document_danfe",
        tags=["fiscal documents"],
        summary="The printed form (PDF), drawn on demand from the archived file",
        responses={(200, "application/pdf"): OpenApiTypes.BINARY, **PROBLEMS},
    )
    def get(self, request: Request, document_id: UUID) -> HttpResponse:
        printed = queries.printed(document_id=document_id, account_id=_account(request))
        return _file(printed.content, "application/pdf", printed.file_name, inline=True)
